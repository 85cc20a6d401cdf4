#!/usr/bin/env bash
# The same set-up as the quickstart, then all tests. Arguments go to ctest (for example -R name).
source "$(dirname "$0")/setup.sh"
BUILD=${BUILD_TEST:-$root/build-test}
need_packages "${build_packages[@]}" "${test_packages[@]}"
build_jupiter -DBUILD_TESTING=ON ${WERROR:+-DJUPITER_WERROR=ON}
prepare_model
ctest --test-dir "$BUILD" --output-on-failure -j 2 "$@"
