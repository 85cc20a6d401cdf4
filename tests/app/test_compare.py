"""What results say about themselves, and jobs/bench/compare, which finds what changed between two of them."""
import copy
import json
import re
import subprocess
import unittest

from program import ROOT, ProgramTest, jupiter

COMPARE = ROOT / "jobs" / "bench" / "compare"
INFO = ("version", "git_commit", "compiler", "cpu", "kernels", "model_hash", "date")


class Results(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.files = {kind: cls.folder / f"{kind}.json" for kind in ("run", "bench", "eval", "profile", "plan")}
        f, model = cls.files, ("-m", cls.tiny)
        result = jupiter("profile", *model, "-o", f["profile"], "--context", "64", "-t", "1")
        assert result.returncode == 0, result.stderr
        for arguments in (("plan", *model, "--cluster", f["profile"], "-p", "64", "-n", "8", "-o", f["plan"]),
                          ("run", *model, "--raw", "-p", "hello", "-n", "4", "--json", f["run"], "--plan", f["plan"]),
                          ("eval", *model, "--self-check", "--json", f["eval"], "--plan", f["plan"]),
                          ("bench", *model, "-p", "8", "-n", "4", "-r", "3", "-o", "json", "--plan", f["plan"])):
            result = jupiter(*arguments)
            assert result.returncode == 0, result.stderr
        f["bench"].write_text(result.stdout)
        cls.values = {kind: json.loads(path.read_text()) for kind, path in f.items()}

    def compare(self, a, b, code):
        """Values or texts; what was printed."""
        paths = []
        for i, value in enumerate((a, b)):
            paths.append(self.folder / f"compared{i}.json")
            paths[-1].write_text(value if isinstance(value, str) else json.dumps(value))
        result = subprocess.run([COMPARE, *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, check=False)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def test_every_result_says_what_made_it(self):
        hashes = set()
        for kind, value in self.values.items():
            with self.subTest(kind):
                value = value[0] if kind == "bench" else value
                for field in INFO:
                    self.assertTrue(value[field], field)
                self.assertRegex(value["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
                self.assertTrue(re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", value["git_commit"]), value["git_commit"])
                if kind != "profile":
                    hashes.add(value["plan_hash"])
        self.assertEqual(len(hashes), 1)
        without = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "2")
        self.assertNotIn("plan_hash", without)

    def test_a_result_equals_itself(self):
        for value in self.values.values():
            self.assertIn("nothing changed", self.compare(value, value, 0))

    def test_bench_judges_by_the_noise_of_the_samples(self):
        def row(samples):
            return [{**self.values["bench"][0], "samples_ts": samples}]
        steady, faster = [100, 101, 99, 100, 100], [110, 111, 109, 110, 110]
        self.assertIn("+10.00%", self.compare(row(steady), row(faster), 1))
        self.assertIn("noise", self.compare(row([60, 140, 100, 80, 120]), row([70, 150, 110, 90, 130]), 0))
        self.compare(row([100.0, 100.1, 99.9]), row([100.5, 100.6, 100.4]), 0)  # certain, but below 1 %
        self.compare(row([100]), row([50]), 0)  # one sample says nothing about noise
        other = copy.deepcopy(self.values["bench"])
        for r in other:
            r["n_threads"] += 1
        self.compare(self.values["bench"], other, 2)

    def test_tokens_bits_metrics_and_plans(self):
        for kind, field, value in (("run", "logits_hash", "0" * 16), ("run", "generated_token_ids", [1]),
                                   ("eval", "logits_hash", "0" * 16), ("eval", "self_check_equal", False),
                                   ("plan", "chunks", []), ("plan", "predicted_ttft_s", 1e6)):
            with self.subTest(kind=kind, field=field):
                text = self.compare(self.values[kind], {**self.values[kind], field: value}, 1)
                self.assertRegex(text, f"{field}.*CHANGED")
        slower = copy.deepcopy(self.values["profile"])
        for board in slower["boards"]:
            board["head"]["seconds"] = [s * 1e4 for s in board["head"]["seconds"]]
        self.assertIn("CHANGED", self.compare(self.values["profile"], slower, 1))
        note = self.compare(self.values["run"], {**self.values["run"], "git_commit": "x", "ttft_s": 1e3}, 0)
        self.assertIn("git_commit", note)
        self.assertIn("ttft_s", note)

    def test_bad_input(self):
        run = self.values["run"]
        self.compare(run, self.values["eval"], 2)
        self.compare(run, {**run, "prompt_token_ids": [7]}, 2)
        self.compare(self.values["eval"], {**self.values["eval"], "settings": {"window_tokens": 1}}, 2)
        self.compare(run, "{", 3)
        self.compare(run, "[]", 3)
        self.compare({**self.values["plan"], "stages": 7}, self.values["plan"], 3)
        for arguments, code in (([], 2), (["/nowhere", "/nowhere"], 3), (["--help"], 0)):
            self.assertEqual(subprocess.run([COMPARE, *arguments], capture_output=True, check=False).returncode, code)


if __name__ == "__main__":
    unittest.main()
