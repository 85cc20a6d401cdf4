"""--draft model=DIR: a smaller model drafts; the text stays the larger one's."""
import json
import unittest

from program import REAL_MODEL, ProgramTest, jupiter


class DraftModel(ProgramTest):
    PROMPT = ("--raw", "-p", "hello", "-n", "24", "--ignore-eos")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.smaller = cls.folder / "smaller"
        assert jupiter("synth", "--shape", "tiny", "--layers", "2", "-o", cls.smaller).returncode == 0

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_a_model_that_knows_the_answer_is_believed(self):
        prompt = ("-p", "What is bread?", "-n", "24", "--ignore-eos", "-c", "256", "--no-verify")
        plain = self.run_json(REAL_MODEL, *prompt, "--decode", "plain")
        for ranks in (1, 3):
            j = self.run_json(REAL_MODEL, *prompt, "--draft", f"model={REAL_MODEL}", "--draft-width", "5", ranks=ranks)
            self.assertEqual(j["logits_hash"], plain["logits_hash"])
            drafted = j["draft"]["by_drafter"]["model"]
            self.assertGreater(drafted["accepted"], 1)  # the same model is right each time it is asked, but it is dear
            self.assertGreaterEqual(j["draft"]["head"]["asked"], 4)

    def test_a_model_that_knows_nothing_changes_nothing(self):
        for sampling in ((), ("--temp", "0.9", "--seed", "7")):
            plain = self.run_json(self.tiny, *self.PROMPT, *sampling, "--decode", "plain")
            j = self.run_json(self.tiny, *self.PROMPT, *sampling, "--draft", f"lookup,model={self.smaller}", ranks=2)
            self.assertEqual(j["logits_hash"], plain["logits_hash"])
            self.assertEqual(j["generated_token_ids"], plain["generated_token_ids"])

    def test_several_requests_share_it(self):
        source, out = self.folder / "in.jsonl", self.folder / "out.jsonl"
        source.write_text("".join(f'{{"id": {i}, "prompt": "hello {i}", "max_tokens": 12}}\n' for i in range(3)))
        hashes = []
        for decoding in (("--decode", "plain"), ("--draft", f"model={self.tiny}")):
            out.unlink(missing_ok=True)
            result = jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--raw", "--ignore-eos", *decoding, ranks=2)
            self.assertEqual(result.returncode, 0, result.stderr)
            hashes.append(self.answers(out))
        self.assertEqual(*hashes)

    @staticmethod
    def answers(path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {line["id"]: line["logits_hash"] for line in lines}

    def test_another_vocabulary_or_no_model_is_refused(self):
        other = self.folder / "other"
        self.assertEqual(jupiter("synth", "--shape", "tinyllama-1.1b", "--layers", "1", "-o", other).returncode, 0)
        for ranks in (1, 2):
            self.assert_fails(jupiter("run", "-m", self.tiny, *self.PROMPT, "--draft", f"model={other}", ranks=ranks), 3,
                              "other", "vocab_size", 512, 32000)
        self.assert_fails(jupiter("run", "-m", self.tiny, *self.PROMPT, "--draft", "model=/nowhere"), 3, "/nowhere")
        self.assert_fails(jupiter("run", "-m", self.tiny, *self.PROMPT, "--draft", f"heads,model={self.smaller}"), 2,
                          "--draft", "several")


if __name__ == "__main__":
    unittest.main()
