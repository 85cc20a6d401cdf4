"""batch: many requests at once, each with the bits it has alone; answers survive a kill; outlines."""
import fcntl
import json
import os
import signal
import subprocess
import time
import unittest

from program import JUPITER, MPIRUN, REAL_MODEL, ProgramTest, jupiter


class Batch(ProgramTest):
    def write(self, name, *lines):
        path = self.folder / name
        path.write_text("".join((l if isinstance(l, str) else json.dumps(l)) + "\n" for l in lines))
        return path

    def batch(self, requests, *arguments, ranks=1, name="out.jsonl", fresh=True):
        out = self.folder / name
        if fresh:
            out.unlink(missing_ok=True)
        result = jupiter("batch", "-m", self.tiny, "-i", requests, "-o", out, "--raw", *arguments, ranks=ranks)
        lines = [json.loads(l) for l in out.read_text().splitlines() if l.endswith("}")] if out.exists() else []
        return result, {json.dumps(l["id"]): l for l in lines}, lines

    def requests(self, count, tokens=12):
        return [{"id": i, "prompt": f"request {i} " + "word " * (i % 7), "max_tokens": tokens + i % 5,
                 "temperature": 0.9 if i % 3 == 1 else 0, "seed": i, "repeat_penalty": 1.1 if i % 4 == 2 else 1}
                for i in range(count)]

    def test_answers_are_those_of_each_request_alone(self):
        wanted = self.requests(10)
        source = self.write("in.jsonl", *wanted)
        _, alone, _ = self.batch(self.write("one.jsonl"), name="none.jsonl")
        self.assertEqual(alone, {})
        for ranks, extra in ((1, ()), (3, ()), (2, ("--cache-tokens", "128", "-c", "128")), (1, ("--decode", "plain"))):
            result, answers, lines = self.batch(source, *extra, ranks=ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(len(lines), len(wanted))
            for r in wanted:
                j = self.run_json(self.tiny, "--raw", "-p", r["prompt"], "-n", r["max_tokens"], "--decode", "plain",
                                  "--temp", r["temperature"], "--seed", r["seed"],
                                  "--repeat-penalty", r["repeat_penalty"]) if extra == () and ranks == 1 else None
                answer = answers[json.dumps(r["id"])]
                if j:
                    wanted_hash = r["hash"] = j["logits_hash"]
                    self.assertEqual(answer["text"], j["text"])
                    self.assertEqual(answer["generated_token_ids"], j["generated_token_ids"])
                else:
                    wanted_hash = r["hash"]
                self.assertEqual(answer["logits_hash"], wanted_hash, (ranks, r["id"]))

    def test_a_common_beginning_is_shared_and_the_bits_stay(self):
        common = "the same long beginning of all requests, as a system message is; "
        wanted = [{"id": i, "prompt": common + f"request {i}", "max_tokens": 6} for i in range(5)]
        source = self.write("common.jsonl", *wanted)
        hashes = {}
        for r in wanted:
            one = self.write("one.jsonl", r)  # nothing to share
            hashes[r["id"]] = self.batch(one)[1][str(r["id"])]["logits_hash"]
        for ranks, extra in ((1, ()), (2, ("--cache-tokens", "128", "-c", "128")), (2, ("--decode", "plain"))):
            result, answers, _ = self.batch(source, *extra, ranks=ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual({i: answers[str(i)]["logits_hash"] for i in hashes}, hashes, (ranks, extra))

    def test_bad_lines_are_reported_and_do_not_stop_the_rest(self):
        source = self.write("bad.jsonl", {"id": "a", "prompt": "x", "max_tokens": 3}, "not json", {"prompt": "no id"},
                            {"id": "a", "prompt": "twice"}, {"id": "b"}, {"id": "c", "prompt": "y", "top_p": 7},
                            {"id": "d", "prompt": "word " * 3000}, {"id": "e", "prompt": "z", "max_tokens": 0}, "",
                            {"id": "f", "prompt": "ok", "max_tokens": 2, "stop": ["q"]})
        result, answers, _ = self.batch(source, ranks=2)
        self.assertEqual(result.returncode, 1, result.stderr)
        for line in (2, 3, 4, 5, 6, 7, 8):
            self.assertIn(f"line {line}", result.stderr)
        self.assertEqual(set(answers), {'"a"', '"b"', '"c"', '"d"', '"e"', '"f"'})
        self.assertEqual({k for k, v in answers.items() if "error" not in v}, {'"a"', '"f"'})

    def test_resume_does_what_is_missing_once(self):
        source = self.write("in.jsonl", *self.requests(6))
        _, whole, lines = self.batch(source)
        out = self.folder / "cut.jsonl"
        text = "".join(json.dumps(l) + "\n" for l in lines[:3]) + json.dumps(lines[3])[:20]
        out.write_text(text)
        refused, _, _ = self.batch(source, name="cut.jsonl", fresh=False)
        self.assert_fails(refused, 2, "cut.jsonl", "--resume")
        result, again, after = self.batch(source, "--resume", name="cut.jsonl", fresh=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(after), 6)
        self.assertEqual({k: v["logits_hash"] for k, v in again.items()}, {k: v["logits_hash"] for k, v in whole.items()})

    def test_an_output_of_another_model_or_no_output_is_refused(self):
        source = self.write("in.jsonl", *self.requests(2))
        out = self.folder / "other.jsonl"
        for line in ('{"id":0,"text":"","model_hash":"0000000000000000"}\n', "nonsense\n"):
            out.write_text(line)
            result, _, _ = self.batch(source, "--resume", name="other.jsonl", fresh=False) if line[0] == "{" else (
                jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--resume"), None, None)
            self.assert_fails(result, 3, "other.jsonl", "line 1")
        self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", source, "-o", "/no/such/folder/out", "--raw"), 1, "folder")
        self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", "/no/such", "-o", out, "--raw"), 3, "/no/such")
        self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", source), 2, "-o")

    def test_two_batches_do_not_write_one_file(self):
        source, out = self.write("in.jsonl", *self.requests(2)), self.folder / "locked.jsonl"
        with open(out, "w", encoding="utf-8") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--raw"), 1, out, "other batch")
        self.assertEqual(self.batch(source, name="locked.jsonl")[0].returncode, 0)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full")
    def test_a_full_disk_is_an_error(self):
        source = self.write("in.jsonl", *self.requests(2))
        self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", source, "-o", "/dev/full", "--raw"), 1, "/dev/full")

    def test_a_killed_batch_goes_on_where_it_was(self):
        count = 60
        source = self.write("many.jsonl", *self.requests(count, tokens=40))
        out = self.folder / "killed.jsonl"
        out.unlink(missing_ok=True)
        command = [*MPIRUN, "-n", "2", JUPITER, "batch", "-m", self.tiny, "-i", source, "-o", out, "--raw",
                   "--cache-tokens", "256", "-c", "128"]
        with subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True) as process:
            while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 5):
                time.sleep(0.005)
            os.killpg(process.pid, signal.SIGKILL)
        before = out.read_bytes().count(b"\n")
        self.assertGreaterEqual(before, 5)
        deadline = time.monotonic() + 20  # ranks notice that their mpirun is gone
        while time.monotonic() < deadline:
            result, _, lines = self.batch(source, "--resume", "--cache-tokens", "256", "-c", "128", ranks=2,
                                          name="killed.jsonl", fresh=False)
            if result.returncode == 0:
                break
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(sorted(l["id"] for l in lines), list(range(count)))

    def test_sigterm_ends_it_resumable(self):
        count = 200
        source = self.write("term.jsonl", *self.requests(count, tokens=60))
        out = self.folder / "term-out.jsonl"
        with subprocess.Popen([JUPITER, "batch", "-m", self.tiny, "-i", source, "-o", out, "--raw"],
                              stderr=subprocess.PIPE) as process:
            while process.poll() is None and (not out.exists() or out.stat().st_size == 0):
                time.sleep(0.005)
            process.terminate()
            self.assertEqual(process.wait(30), 143, process.stderr.read())
        for line in out.read_text().splitlines():
            self.assertGreaterEqual(len(json.loads(line)["generated_token_ids"]), 1)
        result, _, lines = self.batch(source, "--resume", name="term-out.jsonl", fresh=False)
        self.assertEqual((result.returncode, len(lines)), (0, count), result.stderr)


class Outline(ProgramTest):
    def test_bad_options(self):
        for arguments, word in ((("--outline", "often"), "--outline"), (("--outline", "auto", "--raw"), "--raw"),
                                (("--outline", "always", "--points-max", "1"), "--points-max"),
                                (("--outline", "always", "--outline-prompt", "/no/such"), "/no/such")):
            result = jupiter("run", "-m", self.tiny, "-p", "why", "-n", "4", *arguments)
            self.assertIn(result.returncode, (2, 3), result.stderr)
            self.assertIn(word, result.stderr)

    def test_no_outline_gives_the_plain_answer(self):
        arguments = ("-p", "How can I sleep better?", "-n", "12", "--chat-template", "chatml")
        plain = self.run_json(self.tiny, *arguments)
        for ranks in (1, 2):
            outlined = self.run_json(self.tiny, *arguments, "--outline", "always", ranks=ranks)
            self.assertFalse(outlined["outline"]["used"])
            self.assertEqual(outlined["generated_token_ids"], plain["generated_token_ids"])
            self.assertEqual(outlined["logits_hash"], plain["logits_hash"])

    def test_long_questions_get_the_plain_answer(self):
        arguments = ("-p", "How can I sleep better? " * 12, "-n", "4", "--chat-template", "chatml", "-c", "512")
        plain = self.run_json(self.tiny, *arguments)
        outlined = self.run_json(self.tiny, *arguments, "--outline", "always")
        self.assertEqual(outlined["outline"]["outline"], "")
        self.assertEqual(outlined["logits_hash"], plain["logits_hash"])

    @unittest.skipUnless((REAL_MODEL / "manifest.json").exists(), f"{REAL_MODEL} is not there")
    def test_points_have_the_bits_of_plain_decoding_on_any_ranks_and_in_any_cache(self):
        question = "How can I sleep better?"
        def points(ranks, *extra):
            j = self.run_json(REAL_MODEL, "-p", question, "--outline", "always", "--points-max", "4", "--point-tokens",
                              "24", "-t", "1", *extra, ranks=ranks)
            self.assertTrue(j["outline"]["used"])
            return j["text"], [p["logits_hash"] for p in j["outline"]["points"]], j["outline"]["points"]
        text, hashes, found = points(1, "--decode", "plain")
        self.assertEqual(len(found), 4)
        self.assertEqual([line.partition(":")[0] for line in text.splitlines() if line[:1].isdigit()],
                         [f"{i}. {p['point']}" for i, p in enumerate(found, 1)])
        # With a small cache points wait for each other and for the outline.
        for ranks, extra in ((1, ()), (2, ()), (3, ("--decode", "plain")),
                             (2, ("--cache-tokens", "512", "-c", "512")),
                             (1, ("--cache-tokens", "512", "-c", "512", "--decode", "plain"))):
            again, others, _ = points(ranks, *extra)
            self.assertEqual((again, others), (text, hashes), (ranks, extra))
        # Each is the answer to its own prompt: the question, and its heading as the answer's beginning.
        for p, wanted in zip(found[:2], hashes):
            i = found.index(p) + 1
            raw = (f"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                   f"<|im_start|>user\n{question} Explain in detail.<|im_end|>\n<|im_start|>assistant\n"
                   f"{i}. {p['point']}:")
            alone = self.run_json(REAL_MODEL, "--raw", "-p", raw, "-n", len(p["generated_token_ids"]), "-t", "1")
            self.assertEqual(alone["generated_token_ids"], p["generated_token_ids"])
            self.assertEqual(alone["logits_hash"], wanted)


if __name__ == "__main__":
    unittest.main()
