"""--draft model=DIR: a smaller model drafts; the text stays the larger one's."""
import json
import socket
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

    def test_the_planner_finds_a_board_for_it(self):
        cluster, path = self.folder / "cluster.json", self.folder / "found.json"
        result = jupiter("profile", "-m", self.tiny, "-o", cluster, "--shared-host", "--context", "128", "-t", "1", ranks=3)
        self.assertEqual(result.returncode, 0, result.stderr)
        plan = ("plan", "-m", self.tiny, "--cluster", cluster, "-p", "20", "-n", "16", "-c", "256", "-o", path)
        result = jupiter(*plan, "--draft-model", self.smaller)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("draft model on", result.stdout)
        found = json.loads(path.read_text())["draft_model"]
        self.assertIn(found["slot"], (0, 1, 2))
        j = self.run_json(self.tiny, *self.PROMPT, "--draft", f"model={self.smaller}", "--plan", path, ranks=3)
        self.assertEqual(j["logits_hash"], self.run_json(self.tiny, *self.PROMPT, "--decode", "plain")["logits_hash"])
        self.assert_fails(jupiter(*plan, "--draft-model", self.smaller, "--memory", "33"), 4, "draft model", "33 MiB")

    def planned(self, model_hash, layers, stage, draft_hash):
        """Three ranks of this host, the draft model on this stage."""
        cuts = [layers * i // 3 for i in range(4)]
        stages = [{"host": socket.gethostname(), "slot": i, "first_layer": cuts[i], "last_layer": cuts[i + 1],
                   "weight_bytes": 0, "private_bytes": 0, "time_share": 0.3} for i in range(3)]
        path = self.folder / "plan.json"
        path.write_text(json.dumps({
            "kind": "plan", "model_hash": model_hash, "objective": "latency", "prompt_tokens": 20, "new_tokens": 16,
            "context_tokens": 256, "predicted_ttft_s": 1, "predicted_decode_tokens_per_s": 1, "stages": stages,
            "left_out": [], "chunks": [{"prompt_tokens": 256, "lengths": [128, 128]}],
            "draft_model": {"model_hash": draft_hash, "host": socket.gethostname(), "slot": stage, "bytes": 1}}))
        return path

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_it_drafts_on_the_rank_that_the_plan_names(self):
        prompt = ("-p", "What is bread?", "-n", "24", "--ignore-eos", "-c", "256", "--no-verify")
        plain = self.run_json(REAL_MODEL, *prompt, "--decode", "plain")
        for stage in (0, 1):
            path = self.planned(plain["model_hash"], 30, stage, plain["model_hash"])
            for mode in ("lap", "continuous"):
                j = self.run_json(REAL_MODEL, *prompt, "--draft", f"model={REAL_MODEL}", "--plan", path, "--spec-mode",
                                  mode, ranks=3)
                self.assertEqual(j["logits_hash"], plain["logits_hash"])

    def test_a_plan_of_another_draft_model_or_board_is_refused(self):
        own = self.run_json(self.tiny, *self.PROMPT, "--decode", "plain")["model_hash"]
        path = self.planned(own, 32, 1, "0123456789abcdef")
        run = ("run", "-m", self.tiny, *self.PROMPT, "--plan", path, "--draft", f"model={self.tiny}")
        self.assert_fails(jupiter(*run, ranks=3), 3, "plan.json", "draft_model", "0123456789abcdef")
        self.planned(own, 32, 7, own)
        self.assert_fails(jupiter(*run, ranks=3), 3, "plan.json", "draft_model", ":7")

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
