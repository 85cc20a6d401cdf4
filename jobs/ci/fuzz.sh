#!/usr/bin/env bash
# Fuzzes the readers of files and messages with libFuzzer, under the address and undefined-behaviour sanitizers
# (tests/fuzz/README.md). The kept inputs are replayed by jobs/ci/test-sanitizers.sh, so this is for a night, not for
# every change.
#   bash jobs/ci/fuzz.sh [--minutes N] [TARGET...]    N minutes (default 60) shared by these targets (default all)
#   bash jobs/ci/fuzz.sh --coverage [TARGET...]       which lines of each reader the inputs reach so far
#   bash jobs/ci/fuzz.sh --keep [TARGET...]           small inputs that reach as much become those of tests/fuzz/corpus
#   BUILD_FUZZ   build folder (default build-fuzz), which keeps all inputs, and those that were a defect
# Exit code 1 where an input was a defect.
source "$(dirname "$0")/../setup.sh"
BUILD=${BUILD_FUZZ:-$root/build-fuzz}
minutes=60 action=fuzz targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift ;;
    --coverage | --keep) action=${1#--} ;;
    -*) echo "fuzz: expected --minutes N, --coverage, --keep or targets, found $1" >&2; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done
[[ $minutes =~ ^[0-9]+$ && $minutes -gt 0 ]] || { echo "fuzz: --minutes: expected a number, found $minutes" >&2; exit 2; }
readers=$root/tests/fuzz/readers.txt
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(grep -v '^#' "$readers" | cut -d ' ' -f 1)
for target in "${targets[@]}"; do
  grep -q "^$target " "$readers" || { echo "fuzz: expected a target of $readers, found $target" >&2; exit 2; }
done
need_packages "${build_packages[@]}" libgtest-dev clang-14 libclang-rt-14-dev llvm-14 lld-14
export LSAN_OPTIONS="suppressions=$root/tests/leak-suppressions.txt:print_suppressions=0"
export ASAN_OPTIONS=allocator_may_return_null=1  # libhdf5 asks for what a damaged file claims
linker=-DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=lld
corpus=$BUILD/corpus

build_fuzzers() {
  cmake -S "$root" --preset fuzz -B "$BUILD" "$linker" > "$BUILD.log" 2>&1 || { cat "$BUILD.log"; return 1; }
  ninja -C "$BUILD" "${targets[@]/#/fuzz_}" fuzz_seeds > "$BUILD.log" || { cat "$BUILD.log"; return 1; }
  python3 "$root/tests/fuzz/make_seeds.py" "$BUILD"
  "$BUILD/tests/fuzz/fuzz_seeds" "$BUILD/seeds"
}

# fuzz_one TARGET SECONDS: what it printed goes to a file. An input longer than 4 KiB is rarely better than a short one,
# but some formats need more. Targets watch single allocations themselves.
fuzz_one() {
  local longest=4096
  case $1 in
    model_source) longest=200000 ;;
    hf_tokenizer | gguf) longest=20000 ;;
  esac
  mkdir -p "$corpus/$1" "$BUILD/seeds/$1" "$BUILD/defects"
  "$BUILD/tests/fuzz/fuzz_$1" -max_total_time="$2" -max_len=$longest -timeout=20 -rss_limit_mb=2048 \
    -malloc_limit_mb=65536 -dict="$BUILD/dictionaries/$1.dict" -artifact_prefix="$BUILD/defects/$1-" \
    -print_final_stats=1 -reload=0 "$corpus/$1" "$BUILD/seeds/$1" "$root/tests/fuzz/corpus/$1" \
    > "$BUILD/$1.log" 2>&1 || echo "$1" >> "$BUILD/failed"
  awk -v target="$1" '/stat::number_of_executed_units/ {n = $2} END {print target "\t" n + 0}' "$BUILD/$1.log" \
    >> "$BUILD/executions.tsv"
}

fuzz() {
  local jobs seconds
  jobs=$(nproc)
  seconds=$((minutes * 60 * jobs / ${#targets[@]}))
  rm -f "$BUILD/failed"
  for target in "${targets[@]}"; do
    while [ "$(jobs -r | wc -l)" -ge "$jobs" ]; do wait -n; done
    fuzz_one "$target" "$seconds" &
  done
  wait
  echo "executions of every run so far:"
  awk -F '\t' '{n[$1] += $2; all += $2} END {for (t in n) print t "\t" n[t]; print "total\t" all}' \
    "$BUILD/executions.tsv" | sort | column -t
  [ ! -e "$BUILD/failed" ] || { echo "defects of $(tr '\n' ' ' < "$BUILD/failed"): inputs in $BUILD/defects"; return 1; }
}

# The inputs again, in a build that counts lines and has no sanitizers.
coverage() {
  local counted=$BUILD-coverage program
  cmake -S "$root" -B "$counted" -G Ninja "$linker" -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 \
    -DCMAKE_CXX_FLAGS="-fprofile-instr-generate -fcoverage-mapping" > "$counted.log" 2>&1 ||
    { cat "$counted.log"; return 1; }
  ninja -C "$counted" fuzz_replay_test fuzz_app_replay_test > "$counted.log" || { cat "$counted.log"; return 1; }
  for target in "${targets[@]}"; do
    program=$counted/tests/fuzz/fuzz_replay_test
    "$program" --gtest_list_tests | grep -qx "  $target" || program=$counted/tests/fuzz/fuzz_app_replay_test
    mapfile -t sources < <(grep "^$target " "$readers" | cut -d ' ' -f 2- | tr ' ' '\n')
    LLVM_PROFILE_FILE=$counted/$target.profraw "$program" --gtest_filter="Fuzz.$target" "$corpus" > "$counted/$target.log"
    llvm-profdata-14 merge -sparse "$counted/$target.profraw" -o "$counted/$target.profdata"
    llvm-cov-14 export -summary-only "$program" -instr-profile="$counted/$target.profdata" \
      "${sources[@]/#/$root/}" > "$counted/$target.json"
    python3 - "$root" "$counted/$target.json" "$target" <<'END'
import json, sys
root, path, target = sys.argv[1:]
for file in json.load(open(path))["data"][0]["files"]:
    lines = file["summary"]["lines"]
    print(f'{target:15} {file["filename"].removeprefix(root + "/"):42} {lines["percent"]:6.1f} % of {lines["count"]} lines')
END
  done
}

keep() {
  local kept
  for target in "${targets[@]}"; do
    kept=$root/tests/fuzz/corpus/$target
    mkdir -p "$kept" "$BUILD/merged"
    rm -rf "${BUILD:?}/merged/$target" && mkdir "$BUILD/merged/$target"
    "$BUILD/tests/fuzz/fuzz_$target" -merge=1 -max_len=65536 "$BUILD/merged/$target" "$kept" "$corpus/$target" \
      > "$BUILD/$target.log" 2>&1
    echo "$target: $(find "$BUILD/merged/$target" -type f | wc -l) inputs"
  done
}

case $action in
  fuzz) build_fuzzers; fuzz ;;
  coverage) coverage ;;
  keep) build_fuzzers; keep ;;
esac
