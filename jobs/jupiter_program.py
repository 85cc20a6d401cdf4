"""Where the program is, and how scripts start it. Scripts in the folders below find this file by
`sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))`."""
import ctypes
import os
import pathlib
import signal
import subprocess
import sys

# The checkout, or the installed folder that is laid out like one.
ROOT = pathlib.Path(__file__).resolve().parents[1]
# JUPITER names another binary than the one that was built, or installed, with this script.
BINARY = os.environ.get("JUPITER", str(ROOT / "build" / "jupiter"))


def end_with_starter():
    """For a child's preexec_fn: it gets SIGTERM when the thread that started it is gone, also by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def call_jupiter(script, launcher, *arguments):
    """Runs it under what starts it on the boards (none: one rank); ends the script where it fails. Returns what it said
    on standard error."""
    command = [str(c) for c in (*launcher, BINARY, *arguments)]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            check=False, env=environment)
    if result.returncode != 0:
        sys.exit(f"{script}: {' '.join(command)}: exit {result.returncode}: {result.stderr[-500:]}")
    return result.stderr


def inspected(model, name, *options, binary=BINARY):
    """Words of a line of `jupiter inspect`. RuntimeError where the program is not there or refuses."""
    try:
        result = subprocess.run([str(binary), "inspect", str(model), *options], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as e:
        raise RuntimeError(f"{binary}: {e.strerror} (build it, or set JUPITER): it tells the model's {name}") from e
    for line in result.stdout.splitlines():
        words = line.split()
        if words[:1] == [name]:
            return words[1:]
    raise RuntimeError(f"{model}: expected a {name} from {binary} inspect, found: {result.stderr.strip()}")


def model_hash(model, binary=BINARY):
    """The hash by which plans, profiles and results name a model: 16 hexadecimal digits."""
    return inspected(model, "hash", binary=binary)[0]
