#!/usr/bin/env bash
# jupiter beside llama.cpp on the same weights and threads, in turn: medians, best runs and their ratios.
#   bash jobs/bench/compare-llama.sh [MODEL...]     of smollm2, q4_0, q4_1, q4_k_m (1.1B, random weights); default: all
#   ROUNDS (default 10)   THREADS (default "1 2")   TESTS (default "512 128": prompt and generated tokens)
#   WAIT_IDLE (default 0): seconds to wait at most before a run until nobody else uses the machine
# llama.cpp is the one that llama-cpp-python carries, built here for this processor.
source "$(dirname "$0")/../setup.sh"
version=0.3.36
downloads=$root/downloads
need_packages "${build_packages[@]}" python3-venv

# Virtual machines may report AMX and fault at its first instruction.
runs_here() {
  [ -x "$llama_bench" ] && "$llama_bench" -m "$(fetch_smollm2)" -p 64 -n 1 -r 1 > /dev/null 2>&1
}

build_llama_bench() {
  llama_bench=$downloads/llama-build/bin/llama-bench
  runs_here && return
  local flags archive=$downloads/llama_cpp_python-$version.tar.gz source=$downloads/llama_cpp_python-$version
  mkdir -p "$downloads"
  [ -e "$archive" ] || python3 -m pip download -q --no-deps --disable-pip-version-check \
    --no-binary :all: -d "$downloads" "llama-cpp-python==$version"
  [ -d "$source" ] || tar -xzf "$archive" -C "$downloads"
  for flags in "" "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"; do
    cmake -S "$source/vendor/llama.cpp" -B "$downloads/llama-build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      "-DCMAKE_C_FLAGS=$flags" "-DCMAKE_CXX_FLAGS=$flags" -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_UI=OFF \
      -DLLAMA_OPENSSL=OFF > "$downloads/llama-build.log"
    ninja -C "$downloads/llama-build" -j 2 llama-bench >> "$downloads/llama-build.log"
    runs_here && return
  done
  echo "compare-llama: $llama_bench does not run on this machine" >&2
  return 1
}

# The GGUF of a model, made or fetched where it is missing.
gguf_of() {
  if [ "$1" = smollm2 ]; then
    fetch_smollm2
    return
  fi
  local file=$downloads/random-1.1b-$1.gguf
  if [ ! -e "$file" ]; then
    [ -x "$downloads/venv/bin/python" ] || python3 -m venv "$downloads/venv"
    "$downloads/venv/bin/python" -m pip install -q --disable-pip-version-check gguf==0.19.0 >&2
    local part
    part=$(mktemp "$downloads/.random.XXXXXXXX")
    "$downloads/venv/bin/python" "$root/jobs/bench/make-gguf.py" "$1" "$part" || { rm -f "$part"; return 1; }
    mv "$part" "$file"
  fi
  echo "$file"
}

build_jupiter -DBUILD_TESTING=OFF
build_llama_bench
[ $# -gt 0 ] || set -- smollm2 q4_0 q4_1 q4_k_m
for model in "$@"; do
  gguf=$(gguf_of "$model")
  folder=$root/models/compare-$(basename "$gguf" .gguf)
  convert_model "$gguf" "$folder"
  # shellcheck disable=SC2086  # the tests are two words
  python3 "$root/jobs/bench/compare-llama.py" --rounds "${ROUNDS:-10}" --threads ${THREADS:-1 2} \
    --tests ${TESTS:-512 128} --wait-idle "${WAIT_IDLE:-0}" --llama-bench "$llama_bench" --gguf "$gguf" --jupiter "$BUILD/jupiter" --model "$folder"
done
