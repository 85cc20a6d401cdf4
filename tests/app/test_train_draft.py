"""train-draft: a table that changes no bit, goes on after a stop, and is refused by another model."""
import json
import signal
import subprocess
import time
import unittest

from program import JUPITER, ROOT, ProgramTest, jupiter


class TrainDraft(ProgramTest):
    def train(self, name, *arguments, ranks=1):
        target = self.folder / name
        target.unlink(missing_ok=True)
        result = jupiter("train-draft", "-m", self.tiny, "-o", target, "--raw", "-n", "24", "--heads-epochs", "0",
                         *arguments, ranks=ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse((self.folder / (name + ".part.jsonl")).exists())
        return target

    def hello(self):
        """Prompts whose answer the table then knows."""
        prompts = self.folder / "hello.jsonl"
        prompts.write_text('{"id": 1, "prompt": "hello"}\n')
        return prompts

    def test_the_table_is_the_same_on_any_number_of_ranks_and_changes_no_bit(self):
        one = self.train("one.h5", "-i", self.hello())
        self.assertEqual(one.read_bytes(), self.train("three.h5", "-i", self.hello(), ranks=3).read_bytes())
        invented = self.train("self.h5", "--self", "3")
        self.assertEqual(invented.read_bytes(), self.train("self2.h5", "--self", "3", ranks=2).read_bytes())
        plain = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "24", "--decode", "plain")
        for ranks, draft in ((1, f"table={one}"), (2, f"lookup,table={one}")):
            j = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "24", "--draft", draft, "--spec-mode", "lap",
                              "--draft-width", "9", ranks=ranks)
            self.assertEqual(j["logits_hash"], plain["logits_hash"])
            self.assertEqual(j["generated_token_ids"], plain["generated_token_ids"])
            self.assertGreater(j["draft"]["by_drafter"]["table"]["accepted"], 0)
            self.assertLess(j["steps"], 12)

    def test_the_folder_s_own_table_is_used(self):
        copy = self.folder / "with"
        self.assertEqual(jupiter("synth", "--shape", "tiny", "-o", copy).returncode, 0)
        before = self.run_json(copy, "--raw", "-p", "hello", "-n", "16", "--draft-width", "9")
        self.assertNotIn("table", before["draft"].get("by_drafter", {}))
        added = jupiter("convert", "--draft", self.train("add.h5", "-i", self.hello()), "-o", copy)
        self.assertEqual(added.returncode, 0, added.stderr)
        after = self.run_json(copy, "--raw", "-p", "hello", "-n", "16", "--draft-width", "9")
        self.assertIn("table", after["draft"]["by_drafter"])
        self.assertEqual(before["logits_hash"], after["logits_hash"])

    def test_a_file_of_another_model_or_no_file_is_refused(self):
        other = self.folder / "other"
        self.assertEqual(jupiter("synth", "--shape", "tinyllama-1.1b", "--layers", "1", "-o", other).returncode, 0)
        draft = self.train("tiny.h5", "--self", "2")
        self.assert_fails(jupiter("run", "-m", other, "--raw", "-p", "x", "-n", "4", "--draft", f"table={draft}"), 3,
                          "tiny.h5", "vocab_size", 32000, 512)
        self.assert_fails(jupiter("convert", "--draft", draft, "-o", other), 3, "tiny.h5", "vocab_size")
        damaged = self.folder / "damaged.h5"
        damaged.write_bytes(draft.read_bytes()[:-500])
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--draft", f"table={damaged}"), 3,
                          "damaged.h5")
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--draft", "table=none.h5"), 3, "none.h5")
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--draft", "tables"), 2, "--draft")

    def test_a_new_model_in_the_folder_keeps_its_own_draft_only(self):
        folder, draft = self.folder / "again", self.folder / "again" / "draft.h5"
        source = ROOT / "tests" / "data" / "architectures" / "llama3.gguf"

        def writes(*command, removes=None):
            result = jupiter(*command, "-o", folder)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(draft.exists(), removes is None)
            if removes is None:
                self.assertNotIn("removed", result.stderr)
            else:
                self.assertRegex(result.stderr, rf"draft\.h5: {removes}.*; removed\n")

        convert, synth = ("convert", source), ("synth", "--shape", "tiny")
        folder.mkdir()
        draft.write_bytes(self.train("of-tiny.h5", "--self", "2").read_bytes())
        writes(*synth)
        writes(*convert, removes="vocab_size: expected 300 .*, found 512")
        self.assertEqual(jupiter("train-draft", "-m", folder, "-o", draft, "--raw", "-n", "8", "--self", "2",
                                 "--heads-epochs", "0").returncode, 0)
        own = draft.read_bytes()
        writes(*convert)
        writes(*convert, "--quant", "f16")
        self.assertEqual(draft.read_bytes(), own)
        self.assertEqual(jupiter("run", "-m", folder, "--raw", "-p", "x", "-n", "4").returncode, 0)
        draft.write_bytes(own[:-500])
        writes(*convert, removes="content")
        draft.write_bytes(own)
        writes(*synth, removes="vocab_size")

    def test_texts_and_prompts_can_be_given(self):
        text = self.folder / "text.txt"
        text.write_text("the same words and the same words and the same words\n")
        self.train("text.h5", "-i", text)
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text('{"id": 1, "prompt": "hello"}\n{"id": 2, "prompt": "world"}\n')
        self.train("prompts.h5", "-i", prompts, ranks=2)
        prompts.write_text("not json\n")
        result = jupiter("train-draft", "-m", self.tiny, "-o", self.folder / "x.h5", "--raw", "-i", prompts)
        self.assert_fails(result, 3, "prompts.jsonl", "line 1")

    def test_answers_that_are_given_are_not_made(self):
        chats, answer = self.folder / "chats.jsonl", "aXbX" * 5
        lines = [{"id": i, "messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": answer}]}
                 for i in range(3)]
        chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
        target = self.folder / "chats.h5"
        result = jupiter("train-draft", "-m", self.tiny, "-o", target, "--raw", "-n", "18", "--heads-epochs", "1", "-i",
                         chats, "--head-units", "16")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(": 54 tokens counted;", result.stderr)  # at most -n of each answer
        lines[0]["messages"][0]["content"] = "longer than the context " * 60
        chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = jupiter("train-draft", "-m", self.tiny, "-o", target, "--raw", "-n", "18", "--heads-epochs", "1", "-i",
                         chats, "--head-units", "16")
        self.assertEqual(result.returncode, 0, result.stderr)
        lines[1]["messages"].pop(0)
        chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = jupiter("train-draft", "-m", self.tiny, "-o", target, "--raw", "-i", chats)
        self.assert_fails(result, 3, "chats.jsonl", "line 2", "messages")

    def test_a_head_learns_from_a_text_too(self):
        text, target = self.folder / "head.txt", self.folder / "head.h5"
        text.write_text("abcdefgh" * 500)
        result = jupiter("train-draft", "-m", self.tiny, "-o", target, "--raw", "--heads-epochs", "40", "--head-units", "32",
                         "-c", "200", "-i", text, ranks=2)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(": 4000 tokens counted;", result.stderr)
        right = [line for line in result.stderr.splitlines() if line.startswith("head: step")][-1]
        self.assertGreater(float(right.split("by depth ")[1].split(",")[0]), 0.01)
        plain = self.run_json(self.tiny, "--raw", "-p", "abc", "-n", "12", "--decode", "plain")
        j = self.run_json(self.tiny, "--raw", "-p", "abc", "-n", "12", "--draft", f"heads={target}")
        self.assertEqual(j["logits_hash"], plain["logits_hash"])

    def test_a_stopped_run_goes_on(self):
        whole = self.train("whole.h5", "--self", "60").read_bytes()
        target, part = self.folder / "cut.h5", self.folder / "cut.h5.part.jsonl"
        command = [JUPITER, "train-draft", "-m", str(self.tiny), "-o", str(target), "--raw", "-n", "24", "--self", "60",
                   "--heads-epochs", "0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and not (part.exists() and b"\n" in part.read_bytes()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        if process.returncode == 143:  # otherwise it was done before the signal came
            self.assertFalse(target.exists())
            lines = part.read_text().splitlines()
            kept = "".join(line + "\n" for line in lines[: len(lines) // 2])
            part.write_text(kept + lines[-1][:10])  # and a line that was cut off
        else:
            self.assertEqual(process.returncode, 0)
        self.assertEqual(jupiter(*command[1:]).returncode, 0)
        self.assertEqual(target.read_bytes(), whole)
        self.assertFalse(part.exists())


if __name__ == "__main__":
    unittest.main()
