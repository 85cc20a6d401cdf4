#!/usr/bin/env bash
# The same set-up as the quickstart, then all tests. Arguments go to ctest (for example -R name). What this machine
# cannot test (no root, for example) is skipped, and listed at the end with the reason.
source "$(dirname "$0")/setup.sh"
BUILD=${BUILD_TEST:-$root/build-test}
need_packages "${build_packages[@]}" "${test_packages[@]}"
build_jupiter -DBUILD_TESTING=ON ${WERROR:+-DJUPITER_WERROR=ON}
prepare_model
rm -f "$BUILD/skipped-tests.txt"
status=0
ctest --test-dir "$BUILD" --output-on-failure -j 2 "$@" || status=$?
if [ -s "$BUILD/skipped-tests.txt" ]; then
  echo "Skipped:"
  cat "$BUILD/skipped-tests.txt"
fi
exit $status
