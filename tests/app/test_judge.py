"""jobs/bench/judge against a small server of its own, and the counting of jobs/bench/outline-quality."""
import http.server
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "jobs" / "bench"


class Endpoint(http.server.BaseHTTPRequestHandler):
    """A judge that finds the answer with 'good' better; where both or none has it, whatever stands first."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body["model"]))
        a, _, b = body["messages"][0]["content"].partition("Answer B:")
        better = "B" if "good" in b and "good" not in a else "A"
        text = json.dumps({"choices": [{"message": {"content": "perhaps" if "odd" in a else f" {better}.\n"}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Judge(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.server.seen = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)

    def judge(self, *pairs, code=0, **environment):
        environment = {"JUDGE_URL": f"http://127.0.0.1:{self.server.server_port}/v1", "JUDGE_MODEL": "m",
                       "JUDGE_KEY": "k", **environment}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "pairs.jsonl"
            path.write_text("".join(json.dumps(p) + "\n" for p in pairs))
            result = subprocess.run([SCRIPTS / "judge", path], env={**os.environ, **environment}, text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stdout + result.stderr

    def test_both_orders(self):
        pair = {"question": "q", "plain": "weak", "outlined": "weak"}
        text = self.judge(dict(pair, plain="good"), dict(pair, outlined="good"), dict(pair, outlined="good"), pair)
        self.assertIn("4 questions: plain 1, outlined 2, tie 1", text)
        self.assertEqual(self.server.seen, [("/v1/chat/completions", "Bearer k", "m")] * 8)

    def test_errors(self):
        pair = {"question": "odd", "plain": "x", "outlined": "y"}
        self.assertIn("perhaps", self.judge(pair, code=1))
        self.assertIn("127.0.0.1:1", self.judge(dict(pair, question="q"), code=1, JUDGE_URL="http://127.0.0.1:1/v1"))
        self.assertIn("JUDGE_MODEL", self.judge(pair, code=2, JUDGE_MODEL=""))
        self.assertIn("outlined", self.judge({"question": "q", "plain": "x"}, code=3))


class Counting(unittest.TestCase):
    def test_coverage_and_repetition(self):
        loader = importlib.machinery.SourceFileLoader("quality", str(SCRIPTS / "outline-quality"))
        quality = importlib.util.module_from_spec(importlib.util.spec_from_loader("quality", loader))
        loader.exec_module(quality)
        said = {"point": "Set goals", "text": "1. Set goals: a goals list helps"}
        heading_only = {"point": "Set goals", "text": "2. Set goals: this is crucial"}
        self.assertEqual(quality.covered([said, heading_only]), 1)
        self.assertEqual(quality.distinct_pairs("a b a b a"), 0.5)
        self.assertEqual(quality.distinct_pairs("one two three"), 1)


if __name__ == "__main__":
    unittest.main()
