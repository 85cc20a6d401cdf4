"""jobs/jupiter-run: the exit code of a run that ends in good order, however its note arrives."""
import os
import pathlib
import subprocess
import tempfile
import unittest

from program import JUPITER, ROOT

# Rank 0 writes the note a byte at a time, as an unbuffered stream may.
PROGRAM = """#!/usr/bin/env python3
import os, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    for byte in b"before\\n\\x1e3\\x1e\\nafter\\n":
        os.write(2, bytes([byte]))
        time.sleep(0.02)
"""


class Launcher(unittest.TestCase):
    def launch(self, ranks, text=None, arguments=("run",)):
        """Exit code and standard error under the launcher, of a program of this text or jupiter itself."""
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "program"
            if text is not None:
                program.write_text(text)
                program.chmod(0o755)
            result = subprocess.run([ROOT / "jobs" / "jupiter-run", "-n", str(ranks), *arguments],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    check=False, timeout=60,
                                    env=dict(os.environ, JUPITER=str(program) if text is not None else JUPITER))
        return result.returncode, result.stderr

    def test_a_note_in_pieces(self):
        self.assertEqual(self.launch(2, PROGRAM), (3, b"before\nafter\n"))

    def test_no_note_is_a_failure(self):
        for ranks in (1, 2):
            code, errors = self.launch(ranks, "#!/bin/sh\nexit 0\n")
            self.assertEqual(code, 1)
            self.assertIn(b"exit code", errors)

    def test_any_number_of_ranks_leaves_a_note(self):
        for ranks in (1, 2):
            self.assertEqual(self.launch(ranks, arguments=("--version",)), (0, b""))
            self.assertEqual(self.launch(ranks, arguments=("run",))[0], 2)


if __name__ == "__main__":
    unittest.main()
