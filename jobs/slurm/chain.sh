#!/usr/bin/env bash
# Profile, plan and run as a chain of jobs on the same number of nodes:
#   MODEL=... PROMPT="..." bash jobs/slurm/chain.sh [sbatch options, for example -N 4 -w board[1-4]]
# Each job starts only after the one before it succeeded. A plan names hosts, so all jobs need the same nodes: -w.
# Prints the ids of the jobs: profile, plan, run. Results in OUT: cluster.json, plan.json, answer.txt, run.json.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export JUPITER_ROOT=${JUPITER_ROOT:-$(cd "$here/../.." && pwd)}
export OUT=${OUT:-$PWD/results/chain-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$OUT"
profile=$(sbatch --parsable "$@" "$here/profile.sbatch")

# after JOB ...: submits once JOB has succeeded.
after() { sbatch --parsable --dependency="afterok:$1" --kill-on-invalid-dep=yes "${@:2}"; }
plan=$(after "$profile" -o "$OUT/plan.log" "$here/plan.sbatch")
run=$(PLAN=$OUT/plan.json after "$plan" "$@" "$here/run.sbatch")
echo "$profile $plan $run"
