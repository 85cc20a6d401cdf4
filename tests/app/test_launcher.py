"""jobs/jupiter-run: the exit code of a run that ends in good order."""
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

from program import JUPITER, MPIRUN, ROOT

PROGRAM = """#!/usr/bin/env python3
import os
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    os.write(2, b"nothing but what was said\\x1e7\\x1e\\n")
    with open(os.environ["JUPITER_EXIT_PIPE"], "w") as pipe:
        pipe.write("3\\n")
"""


class Launcher(unittest.TestCase):
    def launch(self, ranks, text=None, arguments=("run",), env=None):
        """Exit code and standard error under the launcher, of a program of this text or jupiter itself."""
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "program"
            if text is not None:
                program.write_text(text)
                program.chmod(0o755)
            result = subprocess.run([ROOT / "jobs" / "jupiter-run", "-n", str(ranks), *arguments],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    check=False, timeout=60,
                                    env=dict(os.environ, **(env or {}),
                                             JUPITER=str(program) if text is not None else JUPITER))
        return result.returncode, result.stderr

    def test_the_code_comes_through_the_pipe(self):
        self.assertEqual(self.launch(2, PROGRAM), (3, b"nothing but what was said\x1e7\x1e\n"))

    def test_without_a_reader_the_rank_exits_with_the_code(self):
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run([*MPIRUN, "-n", "2", JUPITER, "run"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
                                    env=dict(os.environ, JUPITER_EXIT_PIPE=os.path.join(folder, "elsewhere")))
        self.assertEqual(result.returncode, 2)

    def test_nothing_stays_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            self.launch(2, arguments=("--version",), env={"TMPDIR": folder})
            self.assertEqual([n for n in os.listdir(folder) if n.startswith("jupiter-run-")], [])

    def test_a_killed_launcher_takes_its_ranks_along_and_the_next_one_cleans_up(self):
        with tempfile.TemporaryDirectory() as folder:
            program, environment = pathlib.Path(folder, "program"), dict(os.environ, TMPDIR=folder)
            program.write_text(f"#!/bin/sh\necho $$ > {folder}/rank-$OMPI_COMM_WORLD_RANK\nexec sleep 300\n")
            program.chmod(0o755)
            command = [ROOT / "jobs" / "jupiter-run", "-n", "2", "run"]
            launcher = subprocess.Popen(command, env=dict(environment, JUPITER=str(program)), stdin=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
            files = [pathlib.Path(folder, f"rank-{r}") for r in range(2)]
            self.wait_for(lambda: all(f.exists() and f.read_text().strip() for f in files))
            launcher.kill()
            launcher.wait()
            self.wait_for(lambda: not any(pathlib.Path("/proc", f.read_text().strip()).exists() for f in files))
            self.assertEqual(len(list(pathlib.Path(folder).glob("jupiter-run-*"))), 1)
            self.assertEqual(self.launch(2, arguments=("--version",), env={"TMPDIR": folder}), (0, b""))
            self.assertEqual(list(pathlib.Path(folder).glob("jupiter-run-*")), [])

    def wait_for(self, what):
        end = time.monotonic() + 30
        while not what():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def test_no_code_is_a_failure(self):
        for ranks in (1, 2):
            code, errors = self.launch(ranks, "#!/bin/sh\nexit 0\n")
            self.assertEqual(code, 1)
            self.assertIn(b"exit code", errors)

    def test_any_number_of_ranks_tells_its_code(self):
        for ranks in (1, 2):
            self.assertEqual(self.launch(ranks, arguments=("--version",)), (0, b""))
            self.assertEqual(self.launch(ranks, arguments=("run",))[0], 2)


if __name__ == "__main__":
    unittest.main()
