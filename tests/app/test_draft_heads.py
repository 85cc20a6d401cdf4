"""Draft heads: training, also on two ranks and after a stop; answers keep their bits; Medusa's layout; foreign files."""
import json
import math
import signal
import struct
import subprocess
import unittest
from random import Random

from program import JUPITER, ProgramTest, jupiter


def safetensors(path, tensors):
    """Writes tensors (name: shape, values) as a safetensors file; weights of layers in F16, others in F32."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        narrow = "linear.weight" in name
        raw = struct.pack(f"<{len(values)}{'e' if narrow else 'f'}", *values)
        header[name] = {"dtype": "F16" if narrow else "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class DraftHeads(ProgramTest):
    OPTIONS = ("--raw", "-n", "40", "--heads-epochs", "20", "--head-units", "48", "--draft-vocab", "200",
               "-t", "1")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.heads = cls.folder / "heads.h5"
        prompts = cls.folder / "prompts.jsonl"
        texts = [*(f"prompt {i}" for i in range(20)), "hello"]
        prompts.write_text("".join(json.dumps({"id": i, "prompt": text}) + "\n" for i, text in enumerate(texts)))
        cls.OPTIONS = (*cls.OPTIONS, "-i", str(prompts))
        result = jupiter("train-draft", "-m", cls.tiny, "-o", cls.heads, *cls.OPTIONS)
        assert result.returncode == 0, result.stderr
        cls.messages = result.stderr
        config = json.loads((cls.tiny / "manifest.json").read_text())["config"]
        cls.dim, cls.vocab = config["dim"], config["vocab_size"]

    def accuracies(self, messages):
        line = [x for x in messages.splitlines() if x.startswith("head: step")][-1]
        return [float(x) for x in line.split("by depth ")[1].split(";")[0].split(", ")]

    def test_training_says_how_far_it_is_and_leaves_nothing_behind(self):
        self.assertRegex(self.messages, r"head: step \d+ of \d+, loss [\d.]+, validation [\d.]+, right by depth")
        self.assertGreater(self.accuracies(self.messages)[0], 0.1)  # by chance: 0.005
        self.assertEqual([p.name for p in self.folder.glob("heads.h5.part*")], [])

    def test_two_ranks_learn_the_same(self):
        result = jupiter("train-draft", "-m", self.tiny, "-o", self.folder / "two.h5", *self.OPTIONS, ranks=2)
        self.assertEqual(result.returncode, 0, result.stderr)
        for one, two in zip(self.accuracies(self.messages), self.accuracies(result.stderr)):
            self.assertAlmostEqual(one, two, delta=0.1)
        self.assertLess(abs(self.heads.stat().st_size - (self.folder / "two.h5").stat().st_size), 4000)

    def test_a_stopped_training_ends_as_one_that_was_not(self):
        options = list(self.OPTIONS)
        options[options.index("--heads-epochs") + 1] = "400"
        whole, cut = self.folder / "whole.h5", self.folder / "cut.h5"
        command = ["train-draft", "-m", self.tiny, *options, "-o"]
        self.assertEqual(jupiter(*command, whole).returncode, 0)
        process = subprocess.Popen([JUPITER, *map(str, command), str(cut)], stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("head: step"):
                process.send_signal(signal.SIGTERM)
                break
        process.communicate(timeout=60)
        if process.returncode == 143:  # otherwise it was done before the signal came
            self.assertFalse(cut.exists())
            self.assertTrue((self.folder / "cut.h5.part.h5").exists())
            result = jupiter(*command, cut)
            self.assertEqual(result.returncode, 0, result.stderr)
        else:
            self.assertEqual(process.returncode, 0)
        self.assertEqual(whole.read_bytes(), cut.read_bytes())
        self.assertEqual([p.name for p in self.folder.glob("cut.h5.part*")], [])

    def test_answers_keep_their_bits(self):
        for sampling in ((), ("--temp", "0.9", "--seed", "5")):
            plain = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "24", "--decode", "plain", *sampling)
            for ranks, draft in ((1, f"heads={self.heads}"), (2, f"lookup,table={self.heads},heads={self.heads}"),
                                 (2, f"heads={self.heads}")):
                j = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "24", "--draft", draft, *sampling, ranks=ranks)
                self.assertEqual(j["logits_hash"], plain["logits_hash"])
                self.assertGreater(j["draft"]["head"]["asked"], 0)
        j = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "24", "--draft", f"heads={self.heads}", "--spec-mode", "lap",
                          "--draft-width", "9")
        self.assertGreater(j["draft"]["by_drafter"]["heads"]["accepted"], 0)

    def medusa(self, heads=2, layers=1, vocab=None):
        random = Random(3)

        def matrix(*shape):
            return list(shape), [random.gauss(0, 0.5) for _ in range(math.prod(shape))]

        tensors = {}
        for h in range(heads):
            for layer in range(layers):
                tensors[f"{h}.{layer}.linear.weight"] = matrix(self.dim, self.dim)
                tensors[f"{h}.{layer}.linear.bias"] = matrix(self.dim)
            tensors[f"{h}.{layers}.weight"] = matrix(vocab or self.vocab, self.dim)
        return tensors

    def test_medusa_heads_are_imported_and_draft(self):
        copy, file = self.folder / "medusa", self.folder / "medusa.safetensors"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "-o", copy).returncode, 0)
        plain = self.run_json(copy, "--raw", "-p", "hello", "-n", "16", "--decode", "plain")
        safetensors(file, self.medusa())
        added = jupiter("convert", "--draft", file, "-o", copy)
        self.assertEqual(added.returncode, 0, added.stderr)
        j = self.run_json(copy, "--raw", "-p", "hello", "-n", "16", "--draft", "heads", "--draft-width", "9", "--spec-mode", "lap")
        self.assertEqual(j["logits_hash"], plain["logits_hash"])
        self.assertGreater(j["draft"]["by_drafter"]["heads"]["sent"], 0)

    def test_foreign_heads_are_refused(self):
        copy, file = self.folder / "foreign", self.folder / "foreign.safetensors"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "-o", copy).returncode, 0)

        def refused(tensors, *words):
            safetensors(file, tensors)
            self.assert_fails(jupiter("convert", "--draft", file, "-o", copy), 3, "foreign.safetensors", *words)
            self.assertFalse((copy / "draft.h5").exists())

        refused(self.medusa(vocab=self.vocab + 1), "0.1.weight", self.vocab, self.vocab + 1)
        missing = self.medusa()
        del missing["1.0.linear.bias"]
        refused(missing, "1.0.linear.bias")
        refused({**self.medusa(), "2.1.weight": ([2, 2], [0] * 4)}, "2.1.weight")
        refused({"x": ([3], [0] * 3)}, "0.0.linear.weight")
        table = self.folder / "table.h5"
        self.assertEqual(jupiter("train-draft", "-m", self.tiny, "-o", table, "--raw", "-n", "8", "--self", "2",
                                 "--heads-epochs", "0").returncode, 0)
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "-n", "4", "--draft", f"heads={table}"), 3,
                          "table.h5", "head")


if __name__ == "__main__":
    unittest.main()
