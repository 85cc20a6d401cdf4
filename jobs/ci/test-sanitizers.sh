#!/usr/bin/env bash
# The readers of files and messages, and the kernels' reference, under the address and undefined-behaviour sanitizers.
# Without optimisation, because GCC then compiles the checks three times as fast; two tests of large inputs, which take
# minutes so, are left out.
source "$(dirname "$0")/../setup.sh"
BUILD=${BUILD_SANITIZE:-$root/build-sanitize}
need_packages "${build_packages[@]}" "${test_packages[@]}"
cmake -S "$root" -B "$BUILD" -G Ninja -DJUPITER_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O0 > "$BUILD.log" 2>&1 || { cat "$BUILD.log"; exit 1; }
ninja -C "$BUILD" io_test parallel_test fuzz_replay_test
export LSAN_OPTIONS="suppressions=$root/tests/leak-suppressions.txt:print_suppressions=0"
ctest --test-dir "$BUILD" --output-on-failure -j 2 -L "io|parallel" \
  -E "Planner.SixtyFourBoardsOfALargeModel|Tokenizer.LongWordsAreNotQuadratic"
