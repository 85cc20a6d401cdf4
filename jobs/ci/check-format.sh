#!/usr/bin/env bash
# Names every source file that clang-format would change.
source "$(dirname "$0")/../setup.sh"
need_packages clang-format
cd "$root"
git ls-files '*.cpp' '*.hpp' | xargs clang-format --dry-run --Werror
echo "format: all files as .clang-format has them"
