"""Thinking apart from answers, in `run` and in the server. The model is a random one whose vocabulary has the markers; a
grammar makes it think."""
import json
import shutil
import unittest

from program import ROOT, ProgramTest, jupiter
from test_serve import Server

GRAMMAR = r'root ::= "<think>\nab\n\nc" [x-z] "\n</think>\n\nde"'
QUESTION = [{"role": "user", "content": "x"}]


def with_markers(source, folder):
    """A copy of a test model, two of whose added tokens are the markers."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    for token, marker in (("<|special|>", "</think>"), ("<user_tag>", "<think>")):
        for added in tokenizer["added_tokens"]:
            if added["content"] == token:
                added.update(content=marker, special=False)
        vocab = tokenizer["model"]["vocab"]
        if token in vocab:
            vocab[marker] = vocab.pop(token)
    path.write_text(json.dumps(tokenizer))
    return folder


class Reasoning(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        source = with_markers(ROOT / "tests" / "data" / "architectures" / "qwen3", cls.folder / "source")
        cls.model = cls.folder / "model"
        result = jupiter("convert", source, "-o", cls.model, "--quant", "f32")
        assert result.returncode == 0, result.stderr
        cls.grammar = cls.folder / "grammar.gbnf"
        cls.grammar.write_text(GRAMMAR)
        cls.arguments = ("-p", "x", "--chat-template", "chatml", "--grammar-file", cls.grammar)

    def test_run_tells_both_apart(self):
        j = self.run_json(self.model, *self.arguments)
        self.assertEqual(j["text"], "de")
        self.assertRegex(j["reasoning"], "^ab\n\nc[x-z]$")
        self.assertGreater(j["reasoning_tokens"], 2)
        self.assertLess(j["reasoning_tokens"], len(j["generated_token_ids"]))
        self.assertEqual(self.run_json(self.model, *self.arguments, ranks=2)["logits_hash"], j["logits_hash"])

    def test_run_shows_or_hides_it(self):
        shown = jupiter("run", "-m", self.model, *self.arguments)
        self.assertRegex(shown.stdout, "^ab\n\nc[x-z]\n\nde\n$")
        hidden = jupiter("run", "-m", self.model, *self.arguments, "--reasoning", "hide")
        self.assertEqual(hidden.stdout, "de\n")
        stopped = jupiter("run", "-m", self.model, *self.arguments, "--stop", "b", "--stop", "e")
        self.assertRegex(stopped.stdout, "^ab\n\nc[x-z]\n\nd\n$", "stop texts are the answer's")

    def test_batch(self):
        requests, out = self.folder / "in.jsonl", self.folder / "out.jsonl"
        requests.write_text(json.dumps({"id": 1, "prompt": "x", "grammar": GRAMMAR}) + "\n")
        result = jupiter("batch", "-m", self.model, "-i", requests, "-o", out, "--chat-template", "chatml")
        self.assertEqual(result.returncode, 0, result.stderr)
        j = json.loads(out.read_text())
        self.assertEqual(j["text"], "de")
        self.assertRegex(j["reasoning"], "^ab\n\nc[x-z]$")
        self.assertGreater(j["reasoning_tokens"], 2)

    def test_models_without_markers_have_no_thinking(self):
        self.assertNotIn("reasoning", self.run_json(self.tiny, "-p", "x", "-n", "4", "--chat-template", "chatml"))

    def test_server(self):
        body = {"messages": QUESTION, "grammar": GRAMMAR}
        with Server(self.model, "--chat-template", "chatml", ranks=1) as server:
            j = server.post("/v1/chat/completions", body)[1]
            message = j["choices"][0]["message"]
            self.assertEqual(message["content"], "de")
            self.assertRegex(message["reasoning_content"], "^ab\n\nc[x-z]$")
            self.assertGreater(j["usage"]["completion_tokens_details"]["reasoning_tokens"], 2)
            deltas = [c["delta"] for e in server.stream("/v1/chat/completions", body) for c in e["choices"]]
            for field in ("content", "reasoning_content"):
                self.assertEqual("".join(d.get(field) or "" for d in deltas), message[field])
            text = server.post("/v1/completions", {"prompt": "x", "grammar": GRAMMAR})[1]["choices"][0]["text"]
            self.assertTrue(text.startswith("<think>"), text)
        with Server(self.model, "--chat-template", "chatml", "--reasoning", "hide", ranks=1) as server:
            j = server.post("/v1/chat/completions", body)[1]
            self.assertNotIn("reasoning_content", j["choices"][0]["message"])
            self.assertGreater(j["usage"]["completion_tokens_details"]["reasoning_tokens"], 2)


if __name__ == "__main__":
    unittest.main()
