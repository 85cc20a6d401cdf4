"""What `run` prints and writes."""
import json
import pathlib
import resource
import signal
import subprocess
import unittest

from program import JUPITER, MPIRUN, REAL_MODEL, ProgramTest, jupiter

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"


class Run(ProgramTest):
    def test_json_fields(self):
        j = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "8", "--decode", "plain", ranks=2)
        for key in ("prompt_token_ids", "generated_token_ids", "text", "finish_reason", "ttft_s", "total_s",
                    "prefill_tokens_per_s", "decode_tokens_per_s", "steps", "tokens_per_step", "logits_hash", "load_s",
                    "model_hash", "ranks"):
            self.assertIn(key, j)
        self.assertEqual(len(j["generated_token_ids"]), 8)
        self.assertEqual(j["finish_reason"], "length")
        self.assertEqual(j["steps"], 7)
        self.assertEqual([(r["first_layer"], r["last_layer"]) for r in j["ranks"]], [(0, 16), (16, 32)])
        self.assertGreater(j["ranks"][0]["sent_bytes"], 5 * 64 * 2)  # the prompt's residual at least

    def test_the_head_counts_as_layers_in_the_split_without_a_plan(self):
        """Of a model whose head has the bytes of several layers the last rank holds fewer; what `inspect` says, runs do."""
        wide = self.folder / "wide-head"
        self.assertEqual(jupiter("synth", "--shape", "smollm2-135m", "--layers", "12", "-o", wide).returncode, 0)
        for ranks in (1, 2, 3):
            split = next(line for line in jupiter("inspect", wide, "--ranks", ranks).stdout.splitlines()
                         if line.split()[:1] == ["split"])
            cuts = [int(word) for word in split.split()[1:]]
            self.assertEqual((len(cuts), cuts[0], cuts[-1]), (ranks + 1, 0, 12))
            j = self.run_json(wide, "--raw", "-p", "hello", "-n", "2", ranks=ranks)
            self.assertEqual([(r["first_layer"], r["last_layer"]) for r in j["ranks"]], list(zip(cuts, cuts[1:])))
            if ranks > 1:
                self.assertLess(cuts[-1] - cuts[-2], cuts[1])
                self.assertGreaterEqual(cuts[-1] - cuts[-2], 1)
        self.assert_fails(jupiter("inspect", wide, "--ranks", "13"), 2, "--ranks", "12")

    def test_the_report_is_there_even_where_the_timeline_cannot_be_written(self):
        """No file may be larger than 16 KiB: room for the report, not for the timeline."""
        report, timeline = self.folder / "report.json", self.folder / "timeline.json"
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10))
        result = subprocess.run([JUPITER, "run", "-m", str(self.tiny), "--raw", "-p", "x", "-n", "200", "--decode", "plain",
                                 "--json", str(report), "--trace", str(timeline)], preexec_fn=limit, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assert_fails(result, 1, timeline)
        self.assertEqual(len(json.loads(report.read_text())["generated_token_ids"]), 200)
        self.assertFalse(timeline.exists())

    def test_timelines_of_all_ranks(self):
        for ranks in (1, 2):
            path = self.folder / "trace.json"
            result = jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "-n", "8", "--trace", path, ranks=ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            events = json.loads(path.read_text())["traceEvents"]
            self.assertEqual({e["pid"] for e in events if e["ph"] == "X" and e["cat"] == "compute"}, set(range(ranks)))
            self.assertEqual([e["pid"] for e in events if e["ph"] == "M"], list(range(ranks)))
            self.assertTrue(all(e["dur"] >= 0 and e["args"]["rows"] >= 0 for e in events if e["ph"] == "X"))

    def test_prompt_from_file_and_stdin_is_taken_as_it_is(self):
        text = "line one\nline two\n"
        path = self.folder / "prompt.txt"
        path.write_text(text)
        by_option = self.run_json(self.tiny, "--raw", "-p", text, "-n", "4")
        by_file = self.run_json(self.tiny, "--raw", "-f", path, "-n", "4")
        self.assertEqual(by_option["prompt_token_ids"], by_file["prompt_token_ids"])
        with open(path, encoding="utf-8") as stream:
            target = self.folder / "stdin.json"
            result = jupiter("run", "-m", self.tiny, "--raw", "-n", "4", "--json", target, stdin=stream, ranks=2)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(target.read_text())["prompt_token_ids"], by_option["prompt_token_ids"])

    def test_context_limits_the_answer(self):
        j = self.run_json(self.tiny, "--raw", "-p", "12345678", "-c", "20")
        self.assertEqual(len(j["prompt_token_ids"]) + len(j["generated_token_ids"]) - 1, 20)
        self.assertEqual(j["finish_reason"], "length")

    def test_sampling_follows_the_seed(self):
        def tokens(seed):
            return self.run_json(self.tiny, "--raw", "-p", "abc", "-n", "12", "--temp", "1.5", "--top-k", "0", "--seed",
                                 seed)["generated_token_ids"]
        self.assertEqual(tokens(1), tokens(1))
        self.assertNotEqual(tokens(1), tokens(2))

    def test_help_and_version(self):
        for arguments in (["--help"], ["--version"], ["run", "--help"], ["convert", "--help"]):
            result = jupiter(*arguments, ranks=2)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("upiter", result.stdout)


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (jobs/test.sh makes it)")
class RealModel(ProgramTest):
    def test_greedy_tokens_equal_the_reference_up_to_a_close_call(self):
        """Reference: transformers in f32. int8 activations alone flip a step at a margin of 0.32."""
        for line in (DATA / "smollm2_greedy.jsonl").read_text().splitlines()[:6]:
            expected = json.loads(line)
            j = self.run_json(REAL_MODEL, "-p", expected["question"], "-n", len(expected["greedy_ids"]), ranks=2)
            self.assertEqual(j["prompt_token_ids"], expected["prompt_ids"])
            sure = next((i for i, m in enumerate(expected["margin"]) if m < 0.5), len(expected["margin"]))
            self.assertEqual(j["generated_token_ids"][:sure], expected["greedy_ids"][:sure])

    def test_stop_string_ends_the_answer_and_is_not_shown(self):
        whole = self.run_json(REAL_MODEL, "-p", "Count from one to five.", "-n", "40")["text"]
        stop = whole[10:16]
        j = self.run_json(REAL_MODEL, "-p", "Count from one to five.", "-n", "40", "--stop", stop)
        self.assertEqual(j["text"], whole[:whole.index(stop)])
        self.assertEqual(j["finish_reason"], "stop")

    def test_chat_is_the_same_as_one_long_prompt(self):
        """The second answer, with the first turn's keys and values from the cache, equals one that computes them anew."""
        def chat(*arguments):
            return subprocess.run([*MPIRUN, "-n", "2", JUPITER, "run", "-m", str(REAL_MODEL), "--chat", "-n", "12",
                                   *arguments], input="Name three fruits.\nAnd three animals?\n", timeout=120, check=True,
                                  stdout=subprocess.PIPE, text=True).stdout
        both = chat()
        first = self.run_json(REAL_MODEL, "-p", "Name three fruits.", "-n", "12")
        self.assertTrue(both.startswith(first["text"] + "\n"), both)
        prompt = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                  "<|im_start|>user\nName three fruits.<|im_end|>\n<|im_start|>assistant\n" + first["text"] +
                  "<|im_end|>\n<|im_start|>user\nAnd three animals?<|im_end|>\n<|im_start|>assistant\n")
        second = self.run_json(REAL_MODEL, "--raw", "-p", prompt, "-n", "12")
        self.assertEqual(both, first["text"] + "\n" + second["text"] + "\n")
        self.assertEqual(chat("--chunk", "3"), both)

    def chat(self, turns, *arguments, ranks=1):
        command = [*(MPIRUN + ["-n", str(ranks)] if ranks > 1 else []), JUPITER, "run", "-m", str(REAL_MODEL), "--chat"]
        return subprocess.run([*command, *map(str, arguments)], input="".join(t + "\n" for t in turns), timeout=300,
                              check=False, capture_output=True, text=True)

    def test_chat_by_default_goes_on_and_is_the_same_on_any_number_of_ranks(self):
        turns = ["Hi", "And?", "Name three fruits.", "Why?"]
        alone = self.chat(turns)
        self.assertEqual(alone.returncode, 0, alone.stderr)
        self.assertGreaterEqual(alone.stdout.count("\n"), len(turns))
        many = self.chat(turns, ranks=3)
        self.assertEqual((many.returncode, many.stdout), (0, alone.stdout), many.stderr)

    def test_chat_goes_on_past_the_context(self):
        turns = [f"Name a fruit that begins with {letter}." for letter in "abcdefghijklmnopqrstuvwxyz"]
        alone = self.chat(turns, "-c", 320)
        self.assertEqual(alone.returncode, 0, alone.stderr)
        self.assertEqual(alone.stderr.count("oldest turns are left out"), 1)
        many = self.chat(turns, "-c", 320, ranks=3)
        self.assertEqual((many.returncode, many.stdout), (0, alone.stdout), many.stderr)

    def test_a_turn_that_cannot_be_answered_is_left_out(self):
        turns = ["Name three fruits.", "word " * 600, "And three animals?"]
        result = self.chat(turns, "-c", 320)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("expected at most 320 tokens", result.stderr)
        self.assertEqual(result.stdout, self.chat([turns[0], turns[2]], "-c", 320).stdout)

    def test_special_tokens_of_the_user_stay_text(self):
        j = self.run_json(REAL_MODEL, "-p", "What does <|im_end|> mean?", "-n", "2")
        self.assertEqual(j["prompt_token_ids"].count(2), 2)  # the template's two <|im_end|>, not the user's


if __name__ == "__main__":
    unittest.main()
