#!/usr/bin/env bash
# A model that no board has room for, on four emulated boards (jobs/emulate/emulate, as root): boards with a memory
# limit of 230 MiB and nothing on their disks but the shards of their own layers. Shows what is refused, and compares
# the memory that the plan predicts with what the ranks took.
#   MODEL_FOLDER (default: random weights in the shape of TinyLlama 1.1B)   JUPITER (default build/jupiter)
source "$(dirname "$0")/../setup.sh"
[ "$(id -u)" = 0 ] || { echo "memory-demo: needs root (emulated boards)" >&2; exit 2; }
need_packages "${build_packages[@]}" iproute2 util-linux
if [ -z "${JUPITER:-}" ]; then
  build_jupiter -DBUILD_TESTING=OFF >&2
  JUPITER=$BUILD/jupiter
fi
model=${MODEL_FOLDER:-$root/models/tinyllama-1.1b-random}
[ -e "$model/manifest.json" ] || "$JUPITER" synth --shape tinyllama-1.1b -o "$model"
work=$(mktemp -d -p "$root")
emulate=$root/jobs/emulate/emulate
small=$root/jobs/emulate/boards/small.boards
trap '"$emulate" down; rm -rf "$work"' EXIT
run=(run -m "$model" --raw -p "The sea" -n 24 -c 256 --ignore-eos)

# What must fail with this exit code; its message is shown.
refused() {
  local expected=$1 code=0 name=$2
  shift 2
  "$@" > "$work/refused" 2>&1 || code=$?
  grep -h '^jupiter: ' "$work/refused" | head -1
  [ "$code" = "$expected" ] || { cat "$work/refused"; echo "memory-demo: $name: expected exit $expected, found $code"; exit 1; }
  echo "refused as it must be: $name (exit $code)"
}

"$JUPITER" "${run[@]}" --json "$work/alone.json" > /dev/null

# Profiled while memory is not limited: every board has the whole model at this point.
sed 's/ 230$/ 0/' "$small" > "$work/free.boards"
"$emulate" up "$work/free.boards"
"$emulate" mpirun "$JUPITER" profile -m "$model" -o "$work/cluster.json" --context 256 --memory 230
"$emulate" down
plan=("$JUPITER" plan -m "$model" --cluster "$work/cluster.json" --kind pipeline -p 64 -n 64 -c 256)
refused 4 "a plan for boards of 100 MiB" "${plan[@]}" --memory 100
"${plan[@]}" -o "$work/plan.json"

# Each board's own disk; files that no page cache holds yet, so that each is charged to the board that reads it.
python3 - "$work" "$model" <<'PYTHON'
import json, pathlib, shutil, sys
work, model = map(pathlib.Path, sys.argv[1:])
plan = json.loads((work / "plan.json").read_text())
for i, stage in enumerate(plan["stages"]):
    folder = work / "boards" / stage["host"]
    folder.mkdir(parents=True)
    ends = {"embed.h5"} if i == 0 else set()
    ends |= {"output.h5", "embed.h5"} if i + 1 == len(plan["stages"]) else set()
    layers = {f"layer_{n:04}.h5" for n in range(stage["first_layer"], stage["last_layer"])}
    for name in ends | layers | {"manifest.json", "tokenizer.h5"}:
        shutil.copyfile(model / name, folder / name)
for host in plan["left_out"]:
    (work / "boards" / host.split(":")[0]).mkdir(parents=True)
    shutil.copyfile(model / "manifest.json", work / "boards" / host.split(":")[0] / "manifest.json")
PYTHON
sync
echo 3 > /proc/sys/vm/drop_caches
"$emulate" up "$small" --mount "$work/boards:$model"
"$emulate" mpirun "$JUPITER" "${run[@]}" --plan "$work/plan.json" --json "$work/run.json" > /dev/null
"$emulate" down
# The same boards with the whole model on each, and no plan for them.
"$emulate" up "$small"
refused 4 "the whole model on one board" "$emulate" mpirun -n 1 "$JUPITER" "${run[@]}"

python3 - "$work" <<'PYTHON'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
alone, run, plan = (json.loads((work / f"{name}.json").read_text()) for name in ("alone", "run", "plan"))
print(f"{'board':<8}{'layers':<10}{'predicted MiB':>15}{'resident MiB':>14}{'off':>8}")
worst = 0
for stage, rank in zip(plan["stages"], run["ranks"]):
    predicted = stage["weight_bytes"] + stage["private_bytes"]
    off = predicted / rank["peak_rss_bytes"] - 1
    worst = max(worst, abs(off))
    print(f"{stage['host']:<8}{stage['first_layer']:>3} - {stage['last_layer'] - 1:<4}{predicted / 2**20:>15.1f}"
          f"{rank['peak_rss_bytes'] / 2**20:>14.1f}{off:>+8.1%}")
same = run["logits_hash"] == alone["logits_hash"]
print(f"logits_hash {run['logits_hash']}: {'the same as' if same else 'NOT that of'} one process without limits")
sys.exit(0 if same and worst <= 0.1 else 1)
PYTHON
