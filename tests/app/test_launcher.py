"""jobs/jupiter-run: the exit code of a run that ends in good order, however its note arrives."""
import os
import pathlib
import subprocess
import tempfile
import unittest

from program import ROOT

# Rank 0 writes the note a byte at a time, as an unbuffered stream may.
PROGRAM = """#!/usr/bin/env python3
import os, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    for byte in b"before\\n\\x1e3\\x1e\\nafter\\n":
        os.write(2, bytes([byte]))
        time.sleep(0.02)
"""


class Launcher(unittest.TestCase):
    def test_a_note_in_pieces(self):
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "program"
            program.write_text(PROGRAM)
            program.chmod(0o755)
            result = subprocess.run([ROOT / "jobs" / "jupiter-run", "-n", "2", "run"], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=60,
                                    env=dict(os.environ, JUPITER=str(program)))
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertEqual(result.stderr, b"before\nafter\n")


if __name__ == "__main__":
    unittest.main()
