"""batch: many requests at once, each with the bits it has alone; answers survive a kill; outlines."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest

from program import ExitPipe, JUPITER, MPIRUN, REAL_MODEL, ProgramTest, jupiter, ranks_of


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
        _, whole, _ = self.batch(source)
        out = self.folder / "cut.jsonl"
        lines = (self.folder / "out.jsonl").read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:3]) + lines[3][:20])
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

    def one_answer(self):
        """A file of requests, and the line that answers the first of them."""
        source = self.write("some.jsonl", *self.requests(2, tokens=3))
        self.assertEqual(self.batch(source, name="some-out.jsonl")[0].returncode, 0)
        return source, (self.folder / "some-out.jsonl").read_bytes().splitlines(keepends=True)[0]

    def test_resume_leaves_files_alone_that_are_no_answers(self):
        source, ours = self.one_answer()
        out = self.folder / "foreign.jsonl"
        for content in (b"a note without an end of line", b"12", b"[1, 2", b'{"id":1,"text":"mine"}', b'{"id":1}', b"\0" * 99,
                        b'{"id": 1, "text": "cut', b'{"id":1,"note":"cut', b'{"id":1,"text":"a","note":', b'{"id":1,"text"x',
                        b'{"id":1,"text":"a",x', b'{"id":1.5', b'{"id":"a"x', b'{"name":"cut', b'{"id":1,"text":"a","text":"b',
                        b'{"id":1,"text":"no hash"}\n', ours + b"a note", ours + b"[1]\n", ours + b'{"id":1,"name":"x"',
                        ours + b'{"id":7,"model_hash":' + ours.split(b'"model_hash":')[1], ours + b"\n" + ours):
            with self.subTest(content=content[-60:]):
                out.write_bytes(content)
                result = jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--raw", "--resume")
                self.assert_fails(result, 3, "foreign.jsonl: line")
                self.assertEqual(out.read_bytes(), content)

    def test_resume_goes_on_after_any_cut_of_an_answer(self):
        source, ours = self.one_answer()
        out = self.folder / "cut-somewhere.jsonl"
        whole = json.loads(ours)
        failed = (json.dumps({"id": 0, "error": "why, \"oh\" why", "model_hash": whole["model_hash"]},
                             separators=(",", ":")) + "\n").encode()
        quoted = ours.replace(b'{"id":0', b'{"id":"a\\"b"')
        self.assertNotEqual(quoted, ours)
        for line in (ours, failed, quoted):
            cuts = {1, 4, len(line) - 2, *(at + n for at in range(len(line)) if line[at:at + 2] == b',"' for n in (0, 4))}
            for cut in sorted(cuts):
                for before in (b"", ours):
                    out.write_bytes(before + line[:cut])
                    result, answers, lines = self.batch(source, "--resume", name=out.name, fresh=False)
                    self.assertEqual(result.returncode, 0, (line[:cut], result.stderr))
                    self.assertEqual((len(lines), answers["0"]["text"]), (2, whole["text"]), line[:cut])
        out.write_bytes(ours[:-1])  # only the end of the line is missing: the answer stays
        result, _, lines = self.batch(source, "--resume", name=out.name, fresh=False)
        self.assertEqual((result.returncode, lines[0], len(lines)), (0, whole, 2), result.stderr)

    def test_the_input_is_never_written(self):
        source = self.folder / "only.jsonl"
        content = json.dumps({"id": 1, "prompt": "x", "max_tokens": 2})
        source.write_text(content)
        (self.folder / "hard").unlink(missing_ok=True)
        (self.folder / "soft").unlink(missing_ok=True)
        os.link(source, self.folder / "hard")
        (self.folder / "soft").symlink_to(source)
        for name in (source, self.folder / "." / "only.jsonl", f"{self.folder}//only.jsonl", self.folder / "hard",
                     self.folder / "soft"):
            for extra in ((), ("--resume",)):
                result = jupiter("batch", "-m", self.tiny, "-i", source, "-o", name, "--raw", *extra)
                self.assert_fails(result, 2, "input")
                self.assertEqual(source.read_text(), content)
        out = self.folder / "only-out.jsonl"
        for trace in (source, self.folder / "hard"):
            result = jupiter("batch", "-m", self.tiny, "-i", source, "-o", out, "--raw", "--trace", trace)
            self.assert_fails(result, 2, trace)
            self.assertEqual(source.read_text(), content)

    def test_errors_are_tried_again_unless_told(self):
        wanted = [{"id": "long", "prompt": "word " * 40, "max_tokens": 3}, {"id": "short", "prompt": "x", "max_tokens": 3}]
        source = self.write("retry.jsonl", *wanted)
        first, answers, _ = self.batch(source, "-c", "64", name="retry-out.jsonl")
        self.assertEqual(first.returncode, 1, first.stderr)
        self.assertIn("error", answers['"long"'])
        def again(*arguments):
            return self.batch(source, "--resume", *arguments, name="retry-out.jsonl", fresh=False)
        for arguments in (("-c", "64"), ("-c", "1024", "--skip-failed")):  # the same error is not written twice
            result, answers, lines = again(*arguments)
            self.assertEqual((result.returncode, len(lines)), (1, 2), result.stderr)
            self.assertIn("error", answers['"long"'])
        result, answers, lines = again("-c", "1024")
        self.assertEqual((result.returncode, len(lines)), (0, 3), result.stderr)
        self.assertEqual(len(answers['"long"']["generated_token_ids"]), 3)  # the last line of an id counts
        result, _, lines = again("-c", "64")
        self.assertEqual((result.returncode, len(lines)), (0, 3), result.stderr)
        self.assert_fails(jupiter("batch", "-m", self.tiny, "-i", source, "-o", "x", "--skip-failed"), 2, "--resume")

    def test_numbers_outside_their_range_are_faults_of_their_line(self):
        bad = [("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1e30), ("max_tokens", 2 ** 64), ("max_tokens", "5"),
               ("top_k", 2 ** 32 + 1), ("top_k", -1), ("top_k", 2.5), ("seed", -1), ("seed", 2 ** 64), ("seed", 0.5),
               ("temperature", 1e300), ("temperature", -1e300), ("top_p", 1e39), ("stop", [7])]
        lines = [{"id": i, "prompt": "x", key: value} for i, (key, value) in enumerate(bad)]
        good = [{"id": "most", "prompt": "abc", "max_tokens": 2 ** 63 - 1},
                {"id": "seed", "prompt": "abc", "max_tokens": 2, "seed": 2 ** 64 - 1, "top_k": 2 ** 31 - 1, "temperature": 1}]
        result, answers, _ = self.batch(self.write("ranges.jsonl", *lines, *good), "-c", "64")
        self.assertEqual(result.returncode, 1, result.stderr)
        for i, (key, _) in enumerate(bad):
            self.assertIn(key, answers[str(i)].get("error", ""), bad[i])
        self.assertEqual(len(answers['"most"']["generated_token_ids"]), 62)  # to the end of the context
        self.assertEqual(len(answers['"seed"']["generated_token_ids"]), 2)

    def test_deep_and_large_values_are_faults_of_their_line(self):
        deep = "[" * 200000
        source = self.write("deep.jsonl", '{"id":1,"prompt":' + deep + "]" * 200000 + "}", '{"id":2,"prompt":' + deep,
                            '{"id":3,"prompt":' + '{"a":' * 200000 + "1" + "}" * 200001, deep + "]" * 200000,
                            {"id": 4, "prompt": list(range(100000))}, {"id": 5, "prompt": "x", "max_tokens": 2})
        result, answers, _ = self.batch(source)
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertEqual([k for k, v in answers.items() if "text" in v], ["5"])
        self.assertLess(max(map(len, result.stderr.splitlines())), 500)

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


    def test_a_signal_waits_for_the_frame_in_progress(self):
        """A rank that takes its time (here: one that stands still) is waited for, and the end is in good order."""
        source = self.write("slow.jsonl", *self.requests(400, tokens=60))
        out = self.folder / "slow-out.jsonl"
        command = [*MPIRUN, "-n", "2", JUPITER, "batch", "-m", self.tiny, "-i", source, "-o", out, "--raw"]
        with ExitPipe() as pipe, subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL,
                                                  stderr=subprocess.PIPE, text=True, env=pipe.environment) as process:
            while process.poll() is None and (not out.exists() or out.stat().st_size == 0):
                time.sleep(0.005)
            self.assertIsNone(process.poll())
            ranks = ranks_of(process)
            os.kill(ranks[1], signal.SIGSTOP)
            for pid in ranks.values():
                os.kill(pid, signal.SIGTERM)
            time.sleep(7)
            self.assertIsNone(process.poll())
            os.kill(ranks[1], signal.SIGCONT)
            _, errors = process.communicate(timeout=60)
            self.assertEqual(pipe.read(), 143)
        self.assertEqual(process.returncode, 0, errors)
        self.assertNotIn("stopped while waiting", errors)


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
