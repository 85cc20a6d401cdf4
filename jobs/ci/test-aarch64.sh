#!/usr/bin/env bash
# The kernels cross-compiled for aarch64, all their tests under qemu-user: NEON tables against the reference, and the
# bits that every machine must have. Arguments go to ctest (for example -R name).
source "$(dirname "$0")/../setup.sh"
BUILD=${BUILD_AARCH64:-$root/build-aarch64}
toolchain=$root/tests/kernels/aarch64.cmake
need_packages cmake ninja-build g++-aarch64-linux-gnu qemu-user googletest

# quietly LOG COMMAND...: the log is shown only when the command fails
quietly() {
  "${@:2}" > "$1" 2>&1 || { cat "$1"; return 1; }
}

# Debian has googletest for this machine's processor only, its source for all.
export JUPITER_CROSS_ROOT=$BUILD-gtest/installed
if [ ! -e "$JUPITER_CROSS_ROOT/lib/libgtest.a" ]; then
  mkdir -p "$BUILD-gtest"
  quietly "$BUILD-gtest/build.log" cmake -S /usr/src/googletest -B "$BUILD-gtest" -G Ninja \
    -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DBUILD_GMOCK=OFF -DCMAKE_INSTALL_PREFIX="$JUPITER_CROSS_ROOT"
  quietly "$BUILD-gtest/build.log" ninja -C "$BUILD-gtest" install
fi
build_jupiter -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DJUPITER_KERNELS_ONLY=ON -DGTest_ROOT="$JUPITER_CROSS_ROOT" \
  ${WERROR:+-DJUPITER_WERROR=ON}
ctest --test-dir "$BUILD" --output-on-failure -j 2 "$@" > "$BUILD/tests.log" || { cat "$BUILD/tests.log"; exit 1; }
tail -n 8 "$BUILD/tests.log"
