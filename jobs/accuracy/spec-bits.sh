#!/usr/bin/env bash
# Speculative decoding changes no bit: every drafter and both modes against plain decoding, on several numbers of local
# ranks, and plain decoding on them against one rank. Exit 1 where a hash differs. About 25 minutes with the defaults.
#   RANKS (default "1 2 3 4 8")   QUESTIONS (default 80)   SINGLE (default 16: questions for each drafter by itself)
#   TOKENS (default 64)   MODEL (default models/smollm2-135m)   OUT (default downloads/spec-bits)   JUPITER
source "$(dirname "$0")/../setup.sh"
need_packages "${build_packages[@]}"
if [ -z "${JUPITER:-}" ]; then
  build_jupiter -DBUILD_TESTING=OFF >&2
  JUPITER=$BUILD/jupiter
fi
export JUPITER
if [ -z "${MODEL:-}" ]; then
  prepare_model
  MODEL=$model_folder
fi
OUT=${OUT:-$root/downloads/spec-bits}
rm -rf "$OUT"
mkdir -p "$OUT"
code=0
for ranks in ${RANKS:-1 2 3 4 8}; do
  check() {
    python3 "$root/jobs/bench/spec-speed.py" -m "$MODEL" -n "${TOKENS:-64}" --slice 1000 --rows "$OUT/$ranks.csv" \
      --variant "plain=--decode plain" "$@" -- mpirun --oversubscribe -n "$ranks" || code=1
  }
  echo "$ranks ranks"
  check --last "${QUESTIONS:-80}" --variant "lap=--spec-mode lap" --variant "continuous=--spec-mode continuous"
  single=()
  for mode in lap continuous; do
    for draft in lookup table heads "model=$MODEL"; do
      single+=(--variant "$mode ${draft%%=*}=--spec-mode $mode --draft $draft")
    done
  done
  check --last "${SINGLE:-16}" "${single[@]}"
done
# Plain decoding: one hash a question, whatever the number of ranks.
python3 - "$OUT" <<'PYTHON' || code=1
import csv, pathlib, sys
hashes = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.csv")):
    for row in csv.DictReader(open(path, encoding="utf-8")):
        if row["variant"] == "plain":
            hashes.setdefault(row["question"], set()).add(row["logits_hash"])
different = [q for q, found in hashes.items() if len(found) > 1]
print(f"plain decoding: {len(hashes)} questions, {len(different)} with other bits on other numbers of ranks")
sys.exit(bool(different))
PYTHON
exit $code
