"""Jupiter for Spack, out of the checkout that this file lies in:

    spack repo add jobs/packages/spack
    spack install jupiter
"""
import pathlib

from spack.package import *


class Jupiter(CMakePackage):
    """Runs a large language model over a pipeline of boards that MPI joins; the answer is the same, bit for bit, on
    any number of them."""

    git = "file://" + str(pathlib.Path(__file__).resolve().parents[5])
    license("Apache-2.0")
    version("main", branch="main")

    variant("tests", default=False, description="Build the tests")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    # The launcher and its companions are Python and call Open MPI's mpirun; the manual pages are made by Python.
    depends_on("python@3.9:", type=("build", "run"))
    depends_on("openmpi@4.1:", type=("build", "link", "run"))
    depends_on("hdf5 ~mpi")
    depends_on("nlohmann-json@3.11:")
    depends_on("fmt@9:")
    depends_on("openblas", type=("build", "run"))  # loaded when train-draft needs it
    depends_on("xxhash")
    depends_on("utf8proc")
    depends_on("cxxopts@3:")
    depends_on("cpp-httplib@0.11:")
    depends_on("googletest", type="build", when="+tests")

    generator("ninja")
    conflicts("%gcc@:11", msg="C++20")

    def cmake_args(self):
        return [self.define_from_variant("BUILD_TESTING", "tests")]

    @run_after("install")
    def check_that_it_starts(self):
        Executable(self.prefix.bin.jupiter)("--version")
