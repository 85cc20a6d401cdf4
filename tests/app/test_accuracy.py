"""Accuracy runs (jobs/accuracy/accuracy.py) of tiny models against baselines in the repository; planted bugs must be
found."""
import pathlib
import subprocess
import sys
import unittest

from program import JUPITER, REAL_MODEL, ROOT, ProgramTest, jupiter

SCRIPTS = ROOT / "jobs" / "accuracy"
SOURCE = ROOT / "tests" / "data" / "architectures" / "llama3.gguf"


class Accuracy(ProgramTest):
    def accuracy(self, model, size="tiny", *arguments, name, code=0):
        command = [sys.executable, SCRIPTS / "accuracy.py", "--jupiter", JUPITER, "--output", self.folder / "results",
                   "--size", size, "--name", name, "--models", model, *arguments]
        result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                check=False)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout

    def damaged(self, kind):
        folder = self.folder / f"damaged-{kind}"
        command = [sys.executable, SCRIPTS / "damage-model.py", kind, SOURCE, folder, "--jupiter", JUPITER]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(jupiter("inspect", folder, "--verify").returncode, 0)  # valid, only wrong
        return folder

    def test_quantised_weights_give_the_bits_of_the_baseline_in_every_way(self):
        text = self.accuracy(f"q4={self.tiny}", name="random")
        self.assertEqual(text.count("passed  ("), 5)

    def test_unchanged_float_weights_pass_every_time(self):
        text = self.accuracy(f"f32={self.damaged('none')}", "tiny", "--repeat", "3", name="llama3")
        self.assertEqual(text.count("passed  ("), 15)

    def test_planted_bugs_are_found(self):
        for kind in ("scales", "heads", "rope"):
            with self.subTest(kind):
                text = self.accuracy(f"f32={self.damaged(kind)}", name="llama3", code=1)
                self.assertEqual(text.count("FAILED"), 5)
                self.assertRegex(text, r"metrics moved\nmetric ")

    def test_a_model_that_is_not_there(self):
        self.accuracy(f"q4={self.folder / 'none'}", name="random", code=3)

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_the_real_model(self):
        text = self.accuracy(f"keep={pathlib.Path(REAL_MODEL)}", "short", name="smollm2")
        self.assertEqual(text.count("passed  ("), 2)


if __name__ == "__main__":
    unittest.main()
