"""What `jupiter inspect` tells about a model, such as the hash by which plans, profiles and results name it."""
import os
import pathlib
import subprocess

BINARY = pathlib.Path(__file__).resolve().parent.parent / "build" / "jupiter"


def inspected(model, name, *options, binary=None):
    """Words of a line of `jupiter inspect`. RuntimeError where the program is not there (JUPITER names it) or refuses."""
    binary = str(binary or os.environ.get("JUPITER", BINARY))
    try:
        result = subprocess.run([binary, "inspect", str(model), *options], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as e:
        raise RuntimeError(f"{binary}: {e.strerror} (build it, or set JUPITER): it tells the model's {name}") from e
    for line in result.stdout.splitlines():
        words = line.split()
        if words[:1] == [name]:
            return words[1:]
    raise RuntimeError(f"{model}: expected a {name} from {binary} inspect, found: {result.stderr.strip()}")


def model_hash(model, binary=None):
    """16 hexadecimal digits."""
    return inspected(model, "hash", binary=binary)[0]
