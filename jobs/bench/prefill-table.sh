#!/usr/bin/env bash
# Time to first token and predictions on emulated boards (jobs/emulate/emulate, as root): one board, an equal split, the
# plan, fixed chunks; a Markdown table on standard output, all runs in OUT/runs.csv. About 40 minutes with the defaults.
#   ROUNDS (default 5)   ENVIRONMENTS (default "a b")   RATES (default "1000 100")   OUT (default downloads/prefill)
#   MODELS (default: SmolLM2 and random weights in the shape of TinyLlama 1.1B)   JUPITER (default build/jupiter)
source "$(dirname "$0")/../setup.sh"
[ "$(id -u)" = 0 ] || { echo "prefill-table: needs root (emulated boards)" >&2; exit 2; }
need_packages "${build_packages[@]}" iproute2 util-linux
if [ -z "${JUPITER:-}" ]; then
  build_jupiter -DBUILD_TESTING=OFF >&2
  JUPITER=$BUILD/jupiter
fi
if [ -z "${MODELS:-}" ]; then
  prepare_model
  synthetic=$root/models/tinyllama-1.1b-random
  [ -e "$synthetic/manifest.json" ] || "$JUPITER" synth --shape tinyllama-1.1b -o "$synthetic"
  MODELS="$model_folder $synthetic"
fi
# shellcheck disable=SC2086  # lists of words
python3 "$root/jobs/bench/prefill-table.py" --jupiter "$JUPITER" --emulate "$root/jobs/emulate/emulate" \
  --boards "$root/jobs/emulate/boards" --rounds "${ROUNDS:-5}" --environments ${ENVIRONMENTS:-a b} --rates ${RATES:-1000 100} --models $MODELS \
  --output "${OUT:-$root/downloads/prefill}"
