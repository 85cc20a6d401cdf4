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


def jupiter(*arguments, ranks=1, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=None, timeout=300, prefix=()):
    """Runs it; the result has returncode, stdout and stderr (text)."""
    command = [*prefix, *([*MPIRUN, "-n", str(ranks)] if ranks > 1 else []), JUPITER, *map(str, arguments)]
    return subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=timeout,
                          env=dict(os.environ, **(env or {})), check=False)


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
