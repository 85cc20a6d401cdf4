#!/usr/bin/env python3
"""A model folder with a planted bug, to see whether accuracy runs find it.

damage-model.py KIND SOURCE.gguf FOLDER [--quant NAME] [--jupiter PROGRAM]
    scales    the weights of one matrix (ffn_down of the middle layer) are 3 % too large: of blocks, the scales
    heads     the first two query heads of the middle layer have changed places
    rope      the second rotary frequency is 5 % too low
    none      nothing: the same conversion
The folder is a valid model of the same name and shape: its checksums are right. Python's standard library only.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import BINARY

SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
# GGUF tensor types: number -> (values of a block, bytes of a block, format and number of the scales in front of it)
BLOCKS = {0: (1, 4, "f", 1), 1: (1, 2, "e", 1), 2: (32, 18, "e", 1), 3: (32, 20, "e", 2), 6: (32, 22, "e", 1),
          7: (32, 24, "e", 2), 8: (32, 34, "e", 1)}


class Gguf:
    """What is needed of a GGUF file: `fields`, and `tensors` as {name: (dims, type, offset of the data)}."""

    def __init__(self, data):
        self.data, self.at = data, 0
        if data[:4] != b"GGUF":
            sys.exit("damage-model: expected a GGUF file")
        self.at = 8
        n_tensors, n_fields = self.take("QQ")
        self.fields = dict(self.field() for _ in range(n_fields))
        infos = [self.tensor() for _ in range(n_tensors)]
        alignment = self.fields.get("general.alignment", 32)
        start = -(-self.at // alignment) * alignment
        self.tensors = {name: (dims, kind, start + offset) for name, dims, kind, offset in infos}

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text(self):
        size = self.take("Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at]).decode(errors="replace")

    def value(self, kind):
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            kind, count = self.take("IQ")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALAR[kind])

    def field(self):
        key = self.text()
        return key, self.value(self.take("I"))

    def tensor(self):
        name, n_dims = self.text(), self.take("I")
        dims = [self.take("Q") for _ in range(n_dims)]
        return name, dims, *self.take("IQ")


def scale_matrix(gguf, name):
    dims, kind, start = gguf.tensors[name]
    values, size, form, count = BLOCKS[kind]
    count_blocks = dims[0] * dims[1] // values
    for block in range(count_blocks):
        at = start + block * size
        scales = struct.unpack_from(f"<{count}{form}", gguf.data, at)
        struct.pack_into(f"<{count}{form}", gguf.data, at, *(1.03 * s for s in scales))


def swap_heads(gguf, name, heads):
    dims, kind, start = gguf.tensors[name]
    values, size, _, _ = BLOCKS[kind]
    head = dims[0] * dims[1] // heads // values * size
    first, second = slice(start, start + head), slice(start + head, start + 2 * head)
    gguf.data[first], gguf.data[second] = gguf.data[second], gguf.data[first]


def damage_weights(kind, data):
    gguf = Gguf(data)
    architecture = gguf.fields["general.architecture"]
    layer = gguf.fields[f"{architecture}.block_count"] // 2
    if kind == "scales":
        scale_matrix(gguf, f"blk.{layer}.ffn_down.weight")
    elif kind == "heads":
        swap_heads(gguf, f"blk.{layer}.attn_q.weight", gguf.fields[f"{architecture}.attention.head_count"])


def damage_rope(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    config = manifest["config"]
    factors = config["rope_factors"] or [1.0] * (config["head_dim"] // 2)
    factors[1] *= 1.05
    config["rope_factors"] = factors
    path.write_text(json.dumps(manifest, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("scales", "heads", "rope", "none"))
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--quant", default="keep")
    parser.add_argument("--jupiter", default=BINARY)
    options = parser.parse_args()
    data = bytearray(options.source.read_bytes())
    damage_weights(options.kind, data)
    with tempfile.TemporaryDirectory() as scratch:
        damaged = pathlib.Path(scratch) / options.source.name  # the name is in the manifest
        damaged.write_bytes(data)
        subprocess.run([options.jupiter, "convert", damaged, "-o", options.folder, "--quant", options.quant],
                       check=True)
    if options.kind == "rope":
        damage_rope(options.folder)


if __name__ == "__main__":
    main()
