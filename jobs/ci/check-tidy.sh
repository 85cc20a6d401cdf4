#!/usr/bin/env bash
# Mistakes that clang-tidy finds with the checks of .clang-tidy; exit 1 where there are any.
#   bash jobs/ci/check-tidy.sh              every source (15 minutes)
#   bash jobs/ci/check-tidy.sh recent [N]   the N sources (default 12, two minutes) that commits changed last; for a
#                                           header one source that includes it
#   bash jobs/ci/check-tidy.sh FILE...      these
# The compiler's commands come from build-tidy (BUILD_TIDY), which is configured, not built: clang cannot read headers
# that GCC precompiled.
source "$(dirname "$0")/../setup.sh"
BUILD=${BUILD_TIDY:-$root/build-tidy}
need_packages "${build_packages[@]}" "${test_packages[@]}" clang-tidy
cd "$root"
cmake -S . -B "$BUILD" -G Ninja -DBUILD_TESTING=ON -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON > "$BUILD.log"
ninja -C "$BUILD" git_commit > "$BUILD.log"

# Sources in the order of their last change, newest first. The log is read to its end: a pipe that closes is an error.
recent_sources() {
  local file
  git log --name-only --diff-filter=d --format= -n 60 -- '*.cpp' '*.hpp' | awk '!seen[$0]++' | while read -r file; do
    case $file in
      *.cpp) echo "$file" ;;
      *) git grep -l -F "#include \"$file\"" -- '*.cpp' | sed -n 1p || true ;;
    esac
  done | awk '!seen[$0]++'
}

case ${1:-} in
  "") mapfile -t files < <(git ls-files '*.cpp') ;;
  recent) mapfile -t files < <(recent_sources) ;;
  *) files=("$@") ;;
esac
# What is not compiled here has no command: instruction sets of other processors.
mapfile -t files < <(for f in "${files[@]}"; do
  if grep -qF "\"$root/$f\"" "$BUILD/compile_commands.json"; then echo "$f"; fi
done)
if [ "${1:-}" = recent ]; then files=("${files[@]:0:${2:-12}}"); fi
[ ${#files[@]} -eq 0 ] || printf '%s\n' "${files[@]}" |
  xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p "$BUILD" --extra-arg=-Wno-unknown-warning-option 2> "$BUILD/tidy.log" ||
  { grep -v "warnings generated" "$BUILD/tidy.log" || true; exit 1; }
echo "tidy: ${#files[@]} sources as .clang-tidy wants them"
