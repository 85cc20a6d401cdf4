# Toolchain file: the whole program for aarch64, on a Debian that has the libraries of both processors
# (jobs/ci/test-packages.sh makes one). Libraries lie in a folder for each processor, headers of most in a common one.
include(${CMAKE_CURRENT_LIST_DIR}/../../tests/kernels/aarch64.cmake)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
