"""Starts jupiter for the scripts that measure it."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def call_jupiter(script, launcher, *arguments):
    """Runs it under what starts it on the boards (none: one rank); ends the script where it fails. JUPITER names the binary."""
    command = [str(c) for c in (*launcher, os.environ.get("JUPITER", ROOT / "build/jupiter"), *arguments)]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            check=False, env=environment)
    if result.returncode != 0:
        sys.exit(f"{script}: {' '.join(command)}: exit {result.returncode}: {result.stderr[-500:]}")
