#!/usr/bin/env bash
# Debian packages for amd64 and arm64. The first is installed into an empty Debian, which then answers a question; the
# program of the second answers the same question under qemu, with no other libraries than those that its package asks
# for. Both must give the same bits. Needs root (it makes Debians in folders) and 4 GB; about 15 minutes on two cores,
# 12 where BUILD_PACKAGES (default build-packages) has the Debian that cross-builds from an earlier time.
source "$(dirname "$0")/../setup.sh"
work=${BUILD_PACKAGES:-$root/build-packages}
suite=bookworm
question=(-p "What is MPI?" -n 24)
[ "$(id -u)" = 0 ] || { echo "test-packages: needs root, to make Debians in folders" >&2; exit 2; }
need_packages "${build_packages[@]}" "${deb_packages[@]}" mmdebstrap qemu-user
mkdir -p "$work"

# step TITLE COMMAND...: prints seconds; the log only where the command fails
step() {
  local start=$SECONDS
  ("${@:2}") > "$work/step.log" 2>&1 || { cat "$work/step.log"; echo "FAILED: $1"; exit 1; }
  printf '%4d s  %s\n' $((SECONDS - start)) "$1"
}

# inside FOLDER COMMAND...: in the Debian of that folder, which sees the sources, the packages and the model
inside() {
  unshare --mount --propagation slave bash -euc '
    cd "$1"; mkdir -p source packages model
    for folder in proc dev sys; do mount --rbind "/$folder" "$folder"; done
    mount --bind "$2" source; mount --bind "$3" packages; mount --bind "$4" model
    cp /etc/resolv.conf etc/resolv.conf
    exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot . "${@:5}"' bash "$1" "$root" "$work" "$model_folder" "${@:2}"
}

# debian FOLDER [mmdebstrap options]: a new Debian in a folder
debian() {
  rm -rf --one-file-system "$1"
  mmdebstrap --variant=apt "${@:2}" "$suite" "$1.part"
  mv "$1.part" "$1"
}

build_amd64() {
  BUILD=$work/amd64
  build_jupiter -DBUILD_TESTING=OFF
  prepare_model
  (cd "$BUILD" && rm -f ./*.deb && cpack)
}

# Not on this machine: packages of Open MPI and HDF5 for one processor would take the place of those for the other.
make_cross() {
  local packages=(g++-aarch64-linux-gnu qemu-user cmake ninja-build pkg-config python3 "${deb_packages[@]}"
    "${build_headers[@]}" "${build_libraries[@]/%/:arm64}")
  debian "$work/cross" --architectures=amd64,arm64 --include="$(IFS=,; echo "${packages[*]}")"
}

build_arm64() {
  inside "$work/cross" sh -ec '
    cmake -S /source -B /packages/arm64 -G Ninja -DBUILD_TESTING=OFF \
      -DCMAKE_TOOLCHAIN_FILE=/source/jobs/packages/arm64.cmake
    ninja -C /packages/arm64
    cd /packages/arm64 && rm -f ./*.deb && DEB_HOST_ARCH=arm64 cpack'
}

install_amd64() {
  inside "$work/empty" sh -ec 'apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /packages/amd64/jupiter_*.deb'
}

# The launcher, two ranks; then every other command shows its help or, without root's rights, why not.
ask_amd64() {
  inside "$work/empty" sh -ec '
    jupiter-run -n 2 run -m /model "$@" --json /packages/amd64.json
    for page in jupiter jupiter-run jupiter_run; do test -e /usr/share/man/man1/$page.1.gz; done
    for command in distribute supervise compare draw-trace outline-quality; do jupiter-$command --help; done
    jupiter-emulate list 2>&1 | grep "no boards"' sh "${question[@]}"
}

# Extracted only: nothing in it can run here without qemu.
make_arm64() {
  local package needed
  package=$(echo "$work"/arm64/jupiter_*_arm64.deb)
  needed=$(dpkg-deb -f "$package" Depends | sed 's/([^)]*)//g; s/ //g')
  rm -rf "$work/arm64-root"
  mmdebstrap --variant=extract --architectures=arm64 --include="$needed" "$suite" "$work/arm64-root"
  dpkg-deb -x "$package" "$work/arm64-root"
}

ask_arm64() {
  qemu-aarch64 -L "$work/arm64-root" "$work/arm64-root/usr/bin/jupiter" run -m "$model_folder" "${question[@]}" \
    --json "$work/arm64.json"
}

# field FILE NAME
field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }

model_folder=$root/models/smollm2-135m
step "package for amd64" build_amd64
[ -e "$work/cross" ] || step "a Debian that builds for arm64" make_cross
step "package for arm64, and its manual pages under qemu" build_arm64
step "an empty Debian" debian "$work/empty"
step "package installed there, with what it needs" install_amd64
step "question answered there by two ranks" ask_amd64
step "what the package for arm64 needs" make_arm64
step "question answered by its program under qemu" ask_arm64
for architecture in amd64 arm64; do
  printf '%s: %s, logits_hash %s\n' $architecture "$(cd "$work/$architecture" && echo ./*.deb)" \
    "$(field "$work/$architecture.json" logits_hash)"
done
[ "$(field "$work/amd64.json" logits_hash)" = "$(field "$work/arm64.json" logits_hash)" ] ||
  { echo "test-packages: amd64 and arm64 differ"; exit 1; }
echo "the same bits: $(field "$work/amd64.json" text | head -1)"
