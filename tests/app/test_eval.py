"""Perplexity and KL divergence: against the reference implementation, against itself, and on several ranks."""
import json
import math
import unittest

from program import REAL_MODEL, ROOT, ProgramTest, jupiter

TEXT = ROOT / "tests" / "data" / "wikitext2_test_8k.txt"


class Eval(ProgramTest):
    def eval_json(self, model, *arguments, ranks=1, text=TEXT):
        target = self.folder / "eval.json"
        result = jupiter("eval", "-m", model, "--text", text, "--json", target, *arguments, ranks=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(target.read_text())

    def test_any_number_of_ranks_gives_the_same_sums(self):
        common = ["--tokens", "700", "--window", "128"]
        one = self.eval_json(self.tiny, *common)
        three = self.eval_json(self.tiny, *common, "--chunk", "17", ranks=3)
        self.assertEqual(one["window_nll_nats"], three["window_nll_nats"])
        self.assertEqual(one["scored_tokens"], 5 * 127)
        self.assertAlmostEqual(one["mean_nll_nats"], sum(one["window_nll_nats"]) / (5 * 127), places=9)
        self.assertAlmostEqual(one["perplexity"], math.exp(one["mean_nll_nats"]), places=6)

    def test_stride_scores_every_token_once(self):
        j = self.eval_json(self.tiny, "--tokens", "512", "--window", "128", "--stride", "64")
        self.assertEqual(j["scored_tokens"], 127 + 6 * 64)

    def test_reference_of_the_same_model_is_nearly_no_divergence_and_another_one_is(self):
        reference = self.folder / "reference.h5"
        common = ["--tokens", "300", "--window", "100"]
        self.eval_json(self.tiny, *common, "--save-reference", reference, ranks=2)
        same = self.eval_json(self.tiny, *common, "--reference", reference)
        self.assertLess(abs(same["kl_mean_nats"]), 1e-4)
        self.assertGreater(same["top1_agreement"], 0.95)
        other = self.folder / "other"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "--seed", "5", "-o", other).returncode, 0)
        self.assertGreater(self.eval_json(other, *common, "--reference", reference)["kl_mean_nats"], 1e-3)

        run = ["eval", "-m", self.tiny, "--text", TEXT, "--reference", reference]
        self.assert_fails(jupiter(*run, "--tokens", "300", "--window", "50", ranks=2), 3, "window_tokens")
        self.assert_fails(jupiter(*run, "--tokens", "200", "--window", "100"), 3, "number of tokens")
        reference.write_bytes(reference.read_bytes()[:5000])
        self.assert_fails(jupiter(*run, "--tokens", "300", "--window", "100"), 3, "reference.h5")

    def test_bad_input(self):
        empty = self.folder / "empty.txt"
        empty.write_text("")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--text", empty, ranks=2), 2, "empty.txt")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--text", self.folder / "none"), 3, "none")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--text", TEXT, "--window", "1"), 2, "--window")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--text", TEXT, "--window", "9999"), 2, "1024")

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_the_real_model_against_transformers(self):
        """Two windows: quantised weights kept, int8 activations, within 1 % of the f32 reference."""
        expected = json.loads((ROOT / "tests" / "data" / "wikitext2_perplexity.json").read_text())
        j = self.eval_json(REAL_MODEL, "--tokens", "1024")
        self.assertEqual(len(j["window_nll_nats"]), 2)
        for got, want in zip(j["window_nll_nats"], expected["nll_per_window"]):
            self.assertLess(abs(got - want), 0.01 * want)


if __name__ == "__main__":
    unittest.main()
