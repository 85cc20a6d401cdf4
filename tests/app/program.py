"""Starting the program in tests: alone or under mpirun, with its exit code and what it printed."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

JUPITER = os.environ["JUPITER"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL_MODEL = pathlib.Path(os.environ.get("JUPITER_MODELS", ROOT / "models")) / "smollm2-135m"
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none"]


class ExitPipe:
    """As under jobs/jupiter-run: ranks that end in good order exit with 0, and the first one tells the exit code through
    a named pipe. `environment` says so to the program; `code` is what it told, None where it told nothing."""

    def __init__(self, env=None):
        self.folder = tempfile.mkdtemp(prefix="jupiter-test-exit-")
        path = os.path.join(self.folder, "exit")
        os.mkfifo(path)
        self.environment = dict(os.environ, JUPITER_EXIT_PIPE=path, **(env or {}))
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.code = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.descriptor)
        shutil.rmtree(self.folder)

    def read(self):
        text = os.read(self.descriptor, 16)
        self.code = int(text) if text else None
        return self.code


def jupiter(*arguments, ranks=1, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=None, timeout=300, prefix=()):
    """Runs it; the result has returncode, stdout and stderr (text). Several ranks tell their exit code through a pipe, as
    under jobs/jupiter-run: after a code of their own mpirun sleeps for a second."""
    command = [*prefix, *([*MPIRUN, "-n", str(ranks)] if ranks > 1 else []), JUPITER, *map(str, arguments)]
    def start(environment):
        return subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=timeout,
                              env=environment, check=False)

    if ranks == 1:
        return start(dict(os.environ, **(env or {})))
    with ExitPipe(env) as pipe:
        result = start(pipe.environment)
        if result.returncode == 0 and pipe.read() is not None:
            result.returncode = pipe.code
        return result


def ranks_of(mpirun):
    """{mpirun's number of a rank: process id} of what it has started so far."""
    ranks = {}
    for child in pathlib.Path(f"/proc/{mpirun.pid}/task/{mpirun.pid}/children").read_text().split():
        words = pathlib.Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks.update({int(w.partition(b"=")[2]): int(child) for w in words if w.startswith(b"OMPI_COMM_WORLD_RANK=")})
    return ranks


class ProgramTest(unittest.TestCase):
    """A temporary folder with a tiny random model in it."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="jupiter-test-"))
        cls.tiny = cls.folder / "tiny"
        result = jupiter("synth", "--shape", "tiny", "-o", cls.tiny)
        assert result.returncode == 0, result.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def run_json(self, model, *arguments, ranks=1, env=None):
        """`run --json` that must succeed: the parsed file."""
        target = self.folder / "run.json"
        result = jupiter("run", "-m", model, "--json", target, *arguments, ranks=ranks, env=env)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(target.read_text())

    def assert_fails(self, result, code, *words):
        """The exit code, and one line of ours that has all the words."""
        self.assertEqual(result.returncode, code, f"stdout: {result.stdout}\nstderr: {result.stderr}")
        ours = [line for line in result.stderr.splitlines() if line.startswith("jupiter: ")]
        self.assertEqual(len(ours), 1, result.stderr)
        for word in words:
            self.assertIn(str(word), ours[0])
