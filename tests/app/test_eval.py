"""Perplexity and KL divergence: against the reference implementation, against itself, and on several ranks."""
import csv
import json
import math
import os
import statistics
import struct
import unittest
import xml.etree.ElementTree

from program import REAL_MODEL, ROOT, ProgramTest, jupiter

TEXT = ROOT / "tests" / "data" / "wikitext2_test_8k.txt"


class Eval(ProgramTest):
    def eval_json(self, model, *arguments, ranks=1, text=TEXT):
        target = self.folder / "eval.json"
        result = jupiter("eval", "-m", model, "--text", text, "--json", target, *arguments, ranks=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(target.read_text())

    def evaluate(self, *arguments, ranks=1, code=0, model=None):
        """The parsed --json, and what was printed."""
        target = self.folder / "evaluate.json"
        result = jupiter("eval", "-m", model or self.tiny, "--json", target, *arguments, ranks=ranks)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return json.loads(target.read_text()), result.stdout

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

    def golden_file(self, change=None):
        """What the tiny model generates itself, one token changed at `change` of the second line."""
        lines = []
        for prompt in ("hello", "another prompt, longer than the first one"):
            j = self.run_json(self.tiny, "--raw", "-p", prompt, "-n", "20", "--ignore-eos")
            lines.append({"question": prompt, "prompt_ids": j["prompt_token_ids"],
                          "greedy_ids": j["generated_token_ids"], "margin": [0.5] * 20})
        if change is not None:
            ids = lines[1]["greedy_ids"]
            ids[change] = (ids[change] + 1) % 256
        path = self.folder / "golden.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
        return path

    def test_golden_tokens_are_those_that_run_generates(self):
        j, _ = self.evaluate("--golden", self.golden_file(), "--chunk", "7", ranks=2)
        self.assertEqual((j["golden_lines"], j["golden_matching_lines"], j["golden_matching_tokens"]), (2, 2, 40))
        self.assertEqual(j["golden_agreement"], 1)
        j, text = self.evaluate("--golden", self.golden_file(change=11))
        self.assertEqual((j["golden_matching_lines"], j["golden_matching_tokens"]), (1, 31))
        self.assertEqual(j["golden"][1]["first_difference"], 11)
        self.assertGreater(j["golden"][1]["margin"], 0)
        self.assertEqual(j["golden"][1]["golden_margin"], 0.5)
        self.assertIn("differs first at token 11 of 20", text)

    def nll(self, text):
        """Of all tokens of a text but the first, from perplexity of one window."""
        path = self.folder / "piece.txt"
        path.write_text(text)
        return sum(self.eval_json(self.tiny, "--window", "1000", text=path)["window_nll_nats"])

    def test_choices_are_judged_by_likelihood_and_by_likelihood_of_a_character(self):
        questions = [{"question": "One and one are ", "choices": ["two", "a very long answer", "3"]},
                     {"question": "The sky is", "choices": ["blue", "bläulich und weit"]},
                     {"question": "Water", "choices": ["wet", "dry as a desert in summer", "x"]}]
        questions += [{"question": q, "choices": ["ö" * n, "some" + "thing" * (n % 3)]}  # characters, not bytes
                      for n, q in enumerate(("My", "His name", "What they", "Every", "Nothing here", "So"), 3)]
        path = self.folder / "choices.jsonl"
        right, right_norm = [], []
        for q in questions:
            context = q["question"].rstrip()
            lls = [self.nll(context) - self.nll(f"{q['question']} {c}") for c in q["choices"]]
            norms = [ll / len(c) for ll, c in zip(lls, q["choices"])]
            q["answer"] = norms.index(max(norms)) if q != questions[0] else 0
            right.append(lls.index(max(lls)) == q["answer"])
            right_norm.append(norms.index(max(norms)) == q["answer"])
        path.write_text("".join(json.dumps(q, ensure_ascii=False) + "\n" for q in questions))
        for ranks in (1, 3):
            j, _ = self.evaluate("--choices", path, ranks=ranks)
            self.assertEqual(j["questions"], 9)
            self.assertAlmostEqual(j["acc"], statistics.mean(right))
            self.assertAlmostEqual(j["acc_norm"], statistics.mean(right_norm))
            self.assertAlmostEqual(j["acc_stderr"], statistics.stdev(right) / math.sqrt(9))
            self.assertAlmostEqual(j["acc_norm_stderr"], statistics.stdev(right_norm) / math.sqrt(9))
        self.assertNotEqual(sum(right), sum(right_norm))  # otherwise this test would not tell them apart

    def test_self_check(self):
        j, text = self.evaluate("--self-check", "--chunk", "17", ranks=3)
        self.assertIs(j["self_check_equal"], True)
        self.assertEqual([c["prompt_tokens"] for c in j["self_check"]], [7, 45, 130, 300])
        self.assertIn("equal one rank's", text)
        one, _ = self.evaluate("--self-check")
        self.assertEqual(one["logits_hash"], j["logits_hash"])

    def test_a_plan_whose_first_stage_is_another_board(self):
        """Text, golden tokens and results lie where mpirun started; the first stage is mpirun's second rank."""
        host = os.uname().nodename
        stage = {"weight_bytes": 0, "private_bytes": 0, "time_share": 0.5, "host": host}
        plan = {"kind": "plan", "model_hash": self.eval_json(self.tiny, "--tokens", "50")["model_hash"],
                "objective": "latency", "prompt_tokens": 64, "new_tokens": 0, "context_tokens": 1024,
                "predicted_ttft_s": 0, "predicted_decode_tokens_per_s": 0, "left_out": [f"{host}:2"],
                "chunks": [{"prompt_tokens": 64, "lengths": [5, 20, 39]}],
                "stages": [{**stage, "slot": 1, "first_layer": 0, "last_layer": 9},
                           {**stage, "slot": 0, "first_layer": 9, "last_layer": 32}]}
        path, baseline = self.folder / "plan.json", self.folder / "plan-baseline.json"
        path.write_text(json.dumps(plan))
        common = ["--text", TEXT, "--tokens", "300", "--window", "64", "--golden", self.golden_file(), "--self-check",
                  "--baseline", baseline]
        one, _ = self.evaluate(*common, "--update-baseline")
        j, text = self.evaluate(*common, "--plan", path, ranks=3)
        self.assertEqual(j["window_nll_nats"], one["window_nll_nats"])
        self.assertEqual(j["logits_hash"], one["logits_hash"])
        self.assertEqual([(r["first_layer"], r["last_layer"]) for r in j["per_rank"]], [(0, 9), (9, 32), (0, 0)])
        self.assertRegex(j["plan_hash"], "^[0-9a-f]{16}$")
        self.assertIn("all 5 metrics within", text)

    @unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
    def test_the_real_model_against_transformers(self):
        """Two windows: quantised weights kept, int8 activations, within 1 % of the f32 reference."""
        expected = json.loads((ROOT / "tests" / "data" / "wikitext2_perplexity.json").read_text())
        j = self.eval_json(REAL_MODEL, "--tokens", "1024")
        self.assertEqual(len(j["window_nll_nats"]), 2)
        for got, want in zip(j["window_nll_nats"], expected["nll_per_window"]):
            self.assertLess(abs(got - want), 0.01 * want)


class Baselines(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.baseline = cls.folder / "baseline.json"
        cls.common = ["--text", TEXT, "--tokens", "400", "--window", "100", "--self-check"]

    def run_eval(self, *arguments, ranks=1, model=None):
        return jupiter("eval", "-m", model or self.tiny, *self.common, "--baseline", self.baseline, *arguments,
                       ranks=ranks)

    def setUp(self):
        result = self.run_eval("--update-baseline")
        self.assertEqual(result.returncode, 0, result.stderr)

    def edit(self, change):
        """Changes the parsed baseline."""
        j = json.loads(self.baseline.read_text())
        change(j)
        self.baseline.write_text(json.dumps(j))

    def test_unchanged_passes_on_any_number_of_ranks(self):
        for ranks in (1, 4):
            result = self.run_eval("--chunk", "33", ranks=ranks)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            self.assertIn("all 2 metrics within", result.stdout)

    def test_a_moved_metric_is_exit_1_with_a_table_and_reports(self):
        self.edit(lambda j: j["metrics"]["perplexity"].update(value=j["metrics"]["perplexity"]["value"] * 0.99))
        table, junit = self.folder / "m.csv", self.folder / "junit.xml"
        result = self.run_eval("--csv", table, "--junit", junit, ranks=2)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stdout,
                         r"1 of 2 metrics moved\nmetric .*\nperplexity .* worse\nlogits_hash .* as it was")
        rows = {row["metric"]: row for row in csv.DictReader(table.read_text().splitlines())}
        self.assertEqual((rows["perplexity"]["moved"], rows["logits_hash"]["moved"]), ("1", "0"))
        suite = xml.etree.ElementTree.parse(junit).getroot()
        self.assertEqual((suite.get("tests"), suite.get("failures")), ("6", "1"))
        self.assertIn("worse", suite.find("testcase[@name='perplexity']/failure").get("message"))
        self.edit(lambda j: j["metrics"]["perplexity"].update(tolerance=1e6))
        self.assertEqual(self.run_eval().returncode, 0)
        self.edit(lambda j: j["metrics"]["perplexity"].update(tolerance=0.001))
        self.assertEqual(self.run_eval("--update-baseline").returncode, 0)
        kept = json.loads(self.baseline.read_text())["metrics"]["perplexity"]
        self.assertEqual(kept["tolerance"], 0.001)
        self.assertEqual(self.run_eval().returncode, 0)

    def test_other_bits_are_a_regression(self):
        self.edit(lambda j: j["metrics"]["logits_hash"].update(value="0" * 16))
        result = self.run_eval(ranks=3)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("other bits", result.stdout)

    def test_other_weights_under_the_same_name_are_found(self):
        """The check of identity goes by name and shape: what a broken conversion makes must not be refused."""
        other = self.folder / "other"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "--seed", "5", "-o", other).returncode, 0)
        result = self.run_eval(model=other)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("2 of 2 metrics moved", result.stdout)
        self.assertIn("model hash", result.stdout)

    def test_what_is_refused(self):
        good = self.baseline.read_text()

        def refused(code, word, change, *arguments):
            self.baseline.write_text(good)
            self.edit(change)
            with self.subTest(word):
                self.assert_fails(self.run_eval(*arguments, ranks=2), code, "baseline.json", word)
        refused(2, "model_name", lambda j: j["model"].update(model_name="another"))
        refused(2, "vocab_size", lambda j: j["model"].update(vocab_size=7))
        refused(2, "quantization", lambda j: j["model"].update(quantization="q8"))
        refused(2, "window_tokens", lambda j: j["settings"].update(window_tokens=512))
        refused(2, "text_hash", lambda j: j["settings"].update(text_hash="0"))
        refused(2, "acc", lambda j: j["metrics"].update(acc={"value": 1, "tolerance": 0}))
        refused(2, "golden_hash", lambda j: j["settings"].update(golden_hash="1"))
        refused(3, "perplexity", lambda j: j["metrics"].pop("perplexity"))
        refused(3, "logits_hash", lambda j: j["metrics"].pop("logits_hash"))
        refused(3, "tolerance", lambda j: j["metrics"]["perplexity"].update(tolerance=-1))
        refused(3, "value", lambda j: j["metrics"]["perplexity"].pop("value"))
        refused(3, "kind", lambda j: j.update(kind="plan"))
        self.baseline.write_text("{")
        self.assert_fails(self.run_eval(ranks=2), 3, "baseline.json", "JSON")
        self.baseline.write_text("")
        self.assert_fails(self.run_eval(), 3, "baseline.json")
        self.baseline.unlink()
        self.assert_fails(self.run_eval(), 3, "baseline.json")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--self-check", "--update-baseline"), 2, "--baseline")


class BadLines(ProgramTest):
    def refused(self, option, code, lines, *words):
        path = self.folder / "lines.jsonl"
        path.write_text(lines)
        with self.subTest(lines):
            self.assert_fails(jupiter("eval", "-m", self.tiny, option, path, ranks=2), code, "lines.jsonl", *words)

    def test_golden(self):
        good = '{"prompt_ids": [1, 2], "greedy_ids": [3]}\n'
        self.refused("--golden", 2, "")
        self.refused("--golden", 2, "\n\n")
        self.refused("--golden", 3, good + '{"greedy_ids": [3]}', ":2", "prompt_ids")
        self.refused("--golden", 3, good + "\n" + '{"prompt_ids": [3]}', ":3", "greedy_ids")
        self.refused("--golden", 3, '{"prompt_ids": [1], "greedy_ids": []}', ":1", "greedy_ids")
        self.refused("--golden", 3, '{"prompt_ids": [-1], "greedy_ids": [1]}', ":1", "prompt_ids")
        self.refused("--golden", 3, '{"prompt_ids": [1], "greedy_ids": [1, 2], "margin": [1]}', ":1", "margin")
        self.refused("--golden", 3, '{"prompt_ids": [1], "greedy_ids": [99999]}', ":1", "512")
        self.refused("--golden", 3, good + "{", ":2", "JSON")
        self.refused("--golden", 3, "[]", ":1")
        self.refused("--golden", 2, json.dumps({"prompt_ids": [1] * 1024, "greedy_ids": [1]}), ":1", "1024")

    def test_choices(self):
        self.refused("--choices", 3, '{"choices": ["a", "b"], "answer": 0}', ":1", "question")
        self.refused("--choices", 3, '{"question": " ", "choices": ["a", "b"], "answer": 0}', ":1", "question")
        self.refused("--choices", 3, '{"question": "q", "answer": 0}', ":1", "choices")
        self.refused("--choices", 3, '{"question": "q", "choices": ["a"], "answer": 0}', ":1", "choices")
        self.refused("--choices", 3, '{"question": "q", "choices": ["a", 7], "answer": 0}', ":1", "choices")
        self.refused("--choices", 3, '{"question": "q", "choices": ["a", "b"], "answer": 2}', ":1", "answer")
        self.refused("--choices", 3, '{"question": "q", "choices": ["a", "b"]}', ":1", "answer")

    def test_nothing_to_evaluate(self):
        self.assert_fails(jupiter("eval", "-m", self.tiny, ranks=2), 2, "--text")
        self.assert_fails(jupiter("eval", "-m", self.tiny, "--self-check", "--reference", "x"), 2, "--reference")

    def test_nan_and_another_vocabulary_in_a_reference(self):
        reference = self.folder / "reference.h5"
        common = ["eval", "-m", self.tiny, "--text", TEXT, "--tokens", "100", "--window", "100"]
        self.assertEqual(jupiter(*common, "--save-reference", reference).returncode, 0)
        data = bytearray(reference.read_bytes())
        at = len(data) - 512 * 2 * 50  # a row in the middle of the last dataset
        data[at:at + 2] = struct.pack("<H", 0x7e00)
        reference.write_bytes(data)
        self.assert_fails(jupiter(*common, "--reference", reference), 3, "reference.h5", "NaN")
        small = self.folder / "small"
        source = ROOT / "tests" / "data" / "architectures" / "llama3.gguf"
        self.assertEqual(jupiter("convert", source, "-o", small).returncode, 0)
        other = [*common[:2], small, *common[3:]]
        self.assert_fails(jupiter(*other, "--reference", reference, ranks=1), 3, "reference.h5", "vocabulary", "300")


if __name__ == "__main__":
    unittest.main()
