"""The soak of a server: what it calls wrong, and a soak of seconds."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from program import REAL_MODEL, ROOT, ProgramTest

SOAK = ROOT / "jobs" / "bench" / "serve-soak.py"
NAMES = ("gateway", "rank0", "rank1")
METRICS = {"jupiter_rank_starts_total": 1, "jupiter_requests_open": 0, "jupiter_requests_failed_total": 0}


def sample(at_s, memory_kib=(100_000, 50_000, 50_000), descriptors=(20, 9, 9), **more):
    processes = {name: {"pid": 1, "rss_kib": m + 1000, "pss_kib": m, "descriptors": d}
                 for name, m, d in zip(NAMES, memory_kib, descriptors)}
    return {"row": "sample", "wall_s": at_s, "load_s": at_s, "paused_s": 60, "processes": processes, "metrics": METRICS,
            "latencies": {"short": [[0.1, 0.2]]}, "counts": {"answers": 5, "compared": 4, "new": 1}, **more}


class Summary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="jupiter-test-")
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "soak.jsonl"

    def summary(self, samples, end=None, rest=""):
        rows = [{"row": "start", "warm_up_s": 600, "most_mib_per_hour": 4, "clients": 6}, *samples]
        if end is not None:
            rows.append({"row": "end", "counts": {"answers": 5}, "hanging": 0, "metrics": METRICS, "rechecked": 1,
                         "differ": [], **end})
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows) + rest)
        return subprocess.run([sys.executable, SOAK, "--summary", self.path], stdout=subprocess.PIPE, text=True,
                              check=False)

    def assert_wrong(self, result, words):
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn(words, result.stdout)

    def hours(self, memory=lambda at: 100_000, descriptors=lambda at: 20):
        return [sample(at, (memory(at), 50_000, 50_000), (descriptors(at), 9, 9)) for at in range(0, 7200, 30)]

    def test_a_level_server_is_right(self):
        result = self.summary(self.hours(), {})
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("| gateway | 97.7 | 97.7 | 97.7 | +0.00 | 98.6 | 20 | 20 |", result.stdout)
        self.assertIn("| short | 240 | 0.10 | 0.10 | 0.20 | 0.20 | 0.20 |", result.stdout)

    def test_what_the_warm_up_takes_is_no_growth(self):
        result = self.summary(self.hours(lambda at: 100_000 + 100 * min(at, 600)), {})
        self.assertEqual(result.returncode, 0, result.stdout)

    def test_growth_is_found(self):
        result = self.summary(self.hours(memory=lambda at: 100_000 + 3 * at), {})
        self.assert_wrong(result, "gateway: memory grew by 10.5 MiB")
        result = self.summary(self.hours(descriptors=lambda at: 20 + at // 300), {})
        self.assert_wrong(result, "gateway: from 29 to 43 descriptors")

    def test_wrong_answers_and_restarts_are_found(self):
        for end, words in (({"counts": {"answers": 5, "wrong": 1}}, "1 wrong"),
                           ({"hanging": 2}, "2 clients still waited"),
                           ({"differ": ["short {}"]}, "one rank gave another answer"),
                           ({"counts": {}}, "no answer came"),
                           ({"metrics": {**METRICS, "jupiter_requests_open": 3}}, "3 answers open")):
            self.assert_wrong(self.summary(self.hours(), end), words)
        restarted = sample(7200, metrics={**METRICS, "jupiter_rank_starts_total": 2})
        self.assert_wrong(self.summary([*self.hours(), restarted], {}), "the ranks came 2 times")

    def test_a_soak_that_was_killed_still_has_its_table(self):
        result = self.summary(self.hours(), rest='{"row": "sample", "wall')
        self.assert_wrong(result, "it did not come to its end")
        self.assertIn("| rank1 | 48.8 |", result.stdout)


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class Soak(ProgramTest):
    def test_seconds_of_it(self):
        command = [SOAK, "-m", REAL_MODEL, "-o", self.folder / "rows.jsonl", "-n", 2, "--minutes", 0.3, "--recheck", 10]
        result = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stdout)
        for name in ("gateway", "rank0", "rank1", "mpirun", "jupiter-run", "jupiter-serve"):
            self.assertIn(f"| {name} |", result.stdout)


if __name__ == "__main__":
    unittest.main()
