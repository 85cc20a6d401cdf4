# Shared by the sbatch scripts. Sourced, not run. Slurm copies a script before it runs it, so paths start at the folder
# that sbatch was called in: call it in the repository, or set JUPITER_ROOT to that or to the installed folder
# (/usr/libexec/jupiter).
#   MODEL (default models/smollm2-135m)   OUT (default results/JOBID)   PLAN (optional)
set -euo pipefail
root=${JUPITER_ROOT:-$SLURM_SUBMIT_DIR}
[ -x "$root/jobs/jupiter-run" ] || { echo "slurm: $root/jobs/jupiter-run: not found (set JUPITER_ROOT)" >&2; exit 2; }
MODEL=${MODEL:-$SLURM_SUBMIT_DIR/models/smollm2-135m}
OUT=${OUT:-$SLURM_SUBMIT_DIR/results/${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
mkdir -p "$OUT"

# srun where its PMIx fits the MPI library (LAUNCHER=srun); else mpirun inside the allocation, which starts its daemons
# through srun where Open MPI was built with Slurm's support, through ssh where not.
ranks=$SLURM_NTASKS
if [ "${LAUNCHER:-mpirun}" = srun ]; then
  export JUPITER_LAUNCHER=srun
  launch=("$root/jobs/jupiter-run")
else
  # SLURM_HOSTS=local: all ranks on the node of the script (one machine that plays several nodes).
  launch=("$root/jobs/jupiter-run" -n "$ranks")
  if [ "${SLURM_HOSTS:-}" = local ]; then launch+=(--host "localhost:$ranks" --mca ras ^slurm --mca plm ^slurm); fi
fi

# jupiter SUBCOMMAND ...: runs it on the job's ranks, in the background, and hands SIGTERM on. Exit code: its own.
# Slurm signals the script only where --signal=B:... says so; mpirun would be killed without a chance to finish.
jupiter() {
  "${launch[@]}" "$@" &
  local child=$! code=0
  trap 'kill -TERM $child 2>/dev/null || true' TERM
  wait "$child" || code=$?
  # A wait that a signal interrupts returns before the child has ended.
  while kill -0 "$child" 2>/dev/null; do code=0; wait "$child" || code=$?; done
  trap - TERM
  return "$code"
}

# The job goes back to the queue after a SIGTERM (143): nothing is lost with --resume. Gives up after RESTARTS starts.
requeue_if_interrupted() {
  [ "$1" = 143 ] || return 0
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-20}" ]; then
    echo "slurm: gave up after ${SLURM_RESTART_COUNT} restarts" >&2
    return 0
  fi
  local id=$SLURM_JOB_ID
  [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  scontrol requeue "$id"
}
