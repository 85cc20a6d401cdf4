"""The hash by which plans, profiles and results name a model: `jupiter inspect` tells it."""
import os
import pathlib
import subprocess

BINARY = pathlib.Path(__file__).resolve().parent.parent / "build" / "jupiter"


def model_hash(model, binary=None):
    """16 hexadecimal digits. RuntimeError where the program is not there (JUPITER names it) or refuses the model."""
    binary = str(binary or os.environ.get("JUPITER", BINARY))
    try:
        result = subprocess.run([binary, "inspect", str(model)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, check=False)
    except OSError as e:
        raise RuntimeError(f"{binary}: {e.strerror} (build it, or set JUPITER): it tells the model's hash") from e
    for line in result.stdout.splitlines():
        words = line.split()
        if words[:1] == ["hash"]:
            return words[1]
    raise RuntimeError(f"{model}: expected a hash from {binary} inspect, found: {result.stderr.strip()}")
