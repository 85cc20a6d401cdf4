#!/usr/bin/env bash
# Accuracy of SmolLM2 in all formats against jobs/accuracy/baselines: several numbers of ranks, chunkings and plans.
# Exit 1: something moved (a table says what). About five minutes on two cores; `short` about one.
#   bash jobs/accuracy/accuracy.sh [full|short] [options of accuracy.py: --update, --repeat N]
#   bash jobs/accuracy/accuracy.sh planted     planted bugs in every format: each must be found
#   FORMATS (default "keep f32 q8 q4")   OUT (default downloads/accuracy: results as JSON and JUnit XML)
source "$(dirname "$0")/../setup.sh"
need_packages "${build_packages[@]}"
build_jupiter -DBUILD_TESTING=OFF
what=full
if [[ "${1:-}" =~ ^(full|short|planted)$ ]]; then what=$1; shift; fi
out=${OUT:-$root/downloads/accuracy}
scripts=$root/jobs/accuracy
mkdir -p "$out"
gguf=$(fetch_smollm2)
formats=${FORMATS:-keep f32 q8 q4}

# check SIZE FORMAT=FOLDER... [options]
check() {
  python3 "$scripts/accuracy.py" --jupiter "$BUILD/jupiter" --output "$out/results" --size "$1" --models "${@:2}"
}

if [ "$what" = planted ]; then
  missed=0
  for format in $formats; do
    for bug in none scales heads rope; do
      python3 "$scripts/damage-model.py" "$bug" "$gguf" "$out/damaged" --quant "$format" --jupiter "$BUILD/jupiter"
      echo "== $format, planted bug: $bug"
      code=0
      check short "$format=$out/damaged" || code=$?
      expected=1; [ "$bug" = none ] && expected=0
      [ "$code" = "$expected" ] || { echo "MISSED: expected exit $expected, found $code"; missed=1; }
      rm -r "$out/damaged"
    done
  done
  exit "$missed"
fi
models=()
for format in $formats; do
  folder=$out/smollm2-$format
  convert_model "$gguf" "$folder" --quant "$format"
  models+=("$format=$folder")
done
check "$what" "${models[@]}" "$@"
