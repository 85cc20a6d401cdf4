"""Starting the program in tests: alone or under mpirun, with its exit code and what it printed."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

JUPITER = os.environ["JUPITER"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
REAL_MODEL = pathlib.Path(os.environ.get("JUPITER_MODELS", ROOT / "models")) / "smollm2-135m"
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none"]
EXIT_NOTE = re.compile("\x1e(\\d+)\x1e\n")


def jupiter(*arguments, ranks=1, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=None, timeout=300, prefix=()):
    """Runs it; the result has returncode, stdout and stderr (text). Ranks that fail in good order leave a note of their
    exit code, as under jobs/jupiter-run: after a code of their own mpirun sleeps for a second."""
    command = [*prefix, *([*MPIRUN, "-n", str(ranks)] if ranks > 1 else []), JUPITER, *map(str, arguments)]
    environment = dict(os.environ, **({"JUPITER_EXIT_NOTE": "1"} if ranks > 1 else {}), **(env or {}))
    result = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=timeout,
                            env=environment, check=False)
    note = EXIT_NOTE.search(result.stderr)
    if note and result.returncode == 0:
        result.returncode = int(note[1])
    result.stderr = EXIT_NOTE.sub("", result.stderr)
    return result


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
