"""profile, plan, and runs that obey a plan: two ranks on one host stand for two boards."""
import json
import os
import signal
import subprocess
import time
import unittest

from program import JUPITER, MPIRUN, ProgramTest, jupiter


class Plan(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = cls.folder / "cluster.json"
        result = jupiter("profile", "-m", cls.tiny, "-o", cls.cluster, "--shared-host", "--context", "128", "-t", "1",
                         ranks=3)
        assert result.returncode == 0, result.stderr

    def plan(self, *arguments, cluster=None):
        target = self.folder / "plan.json"
        result = jupiter("plan", "-m", self.tiny, "--cluster", cluster or self.cluster, "-p", "200", "-n", "16", "-c",
                         "512", "-o", target, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return target, json.loads(target.read_text()), result.stdout

    def all_boards(self):
        """A plan that uses all three ranks, whatever the measurements were."""
        path, plan, _ = self.plan()
        boards = [s["host"] + ":" + str(s["slot"]) for s in plan["stages"]] + plan["left_out"]
        host = plan["stages"][0]["host"]
        order, cuts = sorted(boards, reverse=True), [0, 5, 20, 32]
        plan["stages"] = [{"host": host, "slot": int(b.split(":")[1]), "first_layer": cuts[i], "last_layer": cuts[i + 1],
                           "weight_bytes": 0, "private_bytes": 0, "time_share": 0.3} for i, b in enumerate(order)]
        plan["left_out"] = []
        path.write_text(json.dumps(plan))
        return path, plan

    def test_the_profile_can_be_read_and_the_plan_predicts(self):
        profile = json.loads(self.cluster.read_text())
        self.assertEqual(len(profile["boards"]), 3)
        self.assertEqual(len(profile["links"]), 6)
        _, plan, text = self.plan("--explain", "--simulate")
        self.assertGreater(plan["predicted_ttft_s"], 0)
        self.assertGreater(plan["predicted_decode_tokens_per_s"], 0)
        self.assertEqual(plan["stages"][-1]["last_layer"], 32)
        for word in ("predicted", "equal split", "alone", "idle"):
            self.assertIn(word, text)

    def test_every_plan_gives_the_same_bits_and_stages_follow_it(self):
        first = self.run_json(self.tiny, "--raw", "-p", "hello " * 20, "-n", "12")
        path, plan = self.all_boards()
        j = self.run_json(self.tiny, "--raw", "-p", "hello " * 20, "-n", "12", "--plan", path, ranks=3)
        self.assertEqual(j["logits_hash"], first["logits_hash"])
        self.assertEqual([(r["first_layer"], r["last_layer"]) for r in j["ranks"]], [(0, 5), (5, 20), (20, 32)])
        plan["chunks"] = [{"prompt_tokens": 512, "lengths": [1, 2, 3, 6, 500]}]
        path.write_text(json.dumps(plan))
        j = self.run_json(self.tiny, "--raw", "-p", "hello " * 20, "-n", "12", "--plan", path, ranks=3)
        self.assertEqual(j["logits_hash"], first["logits_hash"])

    def test_an_8_bit_wire_saves_bytes_and_changes_bits_only_between_ranks(self):
        arguments = (self.tiny, "--raw", "-p", "hello " * 20, "-n", "12")
        one, two = (self.run_json(*arguments, "--wire", "q8", ranks=n) for n in (1, 2))
        exact = self.run_json(*arguments, ranks=2)
        self.assertEqual(one["logits_hash"], exact["logits_hash"])
        self.assertNotEqual(two["logits_hash"], exact["logits_hash"])
        sent = [j["ranks"][0]["sent_bytes"] for j in (two, exact)]
        self.assertLess(sent[0], sent[1] * 0.75)
        self.assert_fails(jupiter("run", "-m", self.tiny, "-p", "x", "--wire", "q4"), 2, "--wire", "q4")

    def one_left_out(self):
        """A plan whose first stage is not mpirun's first rank."""
        path, plan = self.all_boards()
        out = plan["stages"].pop(0)
        plan["stages"][0]["first_layer"] = 0
        plan["left_out"] = [out["host"] + ":" + str(out["slot"])]
        path.write_text(json.dumps(plan))
        return path

    def test_boards_left_out_wait_and_end_with_the_others(self):
        path = self.one_left_out()
        prompt = self.folder / "prompt.txt"
        prompt.write_text("from a file")
        j = self.run_json(self.tiny, "--raw", "-f", prompt, "-n", "8", "--plan", path, ranks=3)
        self.assertEqual(len(j["generated_token_ids"]), 8)
        self.assertEqual(len(j["ranks"]), 3)
        self.assertEqual(j["ranks"][2]["weight_bytes"], 0)

    def test_bench_obeys_the_plan_with_every_number_of_threads(self):
        path = self.one_left_out()
        result = jupiter("bench", "-m", self.tiny, "--plan", path, "-p", "8", "-n", "4", "-r", "1", "-t", "1,2", "-o",
                         "json", ranks=3)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = json.loads(result.stdout)
        self.assertEqual([r["n_threads"] for r in rows], [1, 1, 2, 2])
        for row in rows:
            layers = [(r["first_layer"], r["last_layer"]) for r in row["per_rank"]]
            self.assertEqual(layers, [(0, 20), (20, 32), (0, 0)])
            self.assertGreater(row["peak_fraction"], 0)

    def test_trace_and_stats(self):
        trace = self.folder / "trace.json"
        result = jupiter("run", "-m", self.tiny, "--raw", "-p", "hello", "-n", "6", "--decode", "plain", "--trace", trace,
                         "--stats", ranks=3)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("wait s", result.stderr)
        self.assertNotIn("tokens a step", result.stderr)
        events = json.loads(trace.read_text())["traceEvents"]
        computed = [e for e in events if e.get("cat") == "compute"]
        self.assertEqual({e["pid"] for e in computed}, {0, 1, 2})
        self.assertEqual(len(computed), 3 * 6)  # the prompt and five tokens, on each rank
        starts = {r: [e["ts"] for e in computed if e["pid"] == r] for r in range(3)}
        for a, b in ((0, 1), (1, 2)):  # a stage begins after the one before it, on the common clock
            self.assertTrue(all(x < y for x, y in zip(starts[a], starts[b])), starts)

    def test_stats_of_drafts(self):
        result = jupiter("run", "-m", self.tiny, "--raw", "-p", "hello", "-n", "24", "--ignore-eos", "--stats", ranks=2)
        self.assertEqual(result.returncode, 0, result.stderr)
        for word in ("tokens a step", "drafting took", "rows were rejected", "right by depth", "bubbles"):
            self.assertIn(word, result.stderr)

    def test_nonsense_plans(self):
        path, plan = self.all_boards()

        def refused(code, word, **changes):
            path.write_text(json.dumps({**plan, **changes}))
            with self.subTest(word):
                self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=3), code, word)
        stages = plan["stages"]
        refused(3, "layers", stages=[stages[0], {**stages[1], "first_layer": 4}, stages[2]])
        refused(3, "layers", stages=stages[:2])
        refused(3, "lengths", chunks=[{"prompt_tokens": 8, "lengths": [0, 8]}])
        refused(3, "model_hash", model_hash="0" * 16)
        refused(2, "nowhere:0", stages=[{**stages[0], "host": "nowhere", "slot": 0}, *stages[1:]])
        refused(3, "kind", kind="recipe")
        path.write_text("{")
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=3), 3, "JSON")
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", self.folder / "none", ranks=2), 3,
                          "none")

    def test_more_ranks_than_boards_in_the_plan(self):
        path, plan = self.all_boards()
        path.write_text(json.dumps(plan))
        self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=4), 2, ":3")

    def test_bad_profiles(self):
        def refused(code, word, text):
            bad = self.folder / "bad.json"
            bad.write_text(text)
            with self.subTest(word):
                self.assert_fails(jupiter("plan", "-m", self.tiny, "--cluster", bad, "-p", "8", "-n", "8"), code, word)
        profile = json.loads(self.cluster.read_text())
        refused(3, "JSON", "[")
        refused(3, "model_hash", json.dumps({**profile, "model_hash": "0" * 16}))
        refused(3, "version", json.dumps({**profile, "version": "0.0.1"}))
        refused(3, "measure again", json.dumps({**profile, "format": 1}))
        refused(3, "boards", json.dumps({**profile, "boards": []}))
        refused(3, "links", json.dumps({**profile, "links": []}))
        refused(3, "twice", json.dumps({**profile, "boards": [profile["boards"][0]] * 3}))
        self.assert_fails(jupiter("plan", "-m", self.tiny, "--cluster", self.cluster, "--memory", "1"), 4, "MiB")
        self.assert_fails(jupiter("plan", "-m", self.tiny, "--cluster", self.cluster, "-p", "9999"), 2, "tokens")

    def test_ranks_that_share_a_host_are_an_error_unless_wanted(self):
        self.assert_fails(jupiter("profile", "-m", self.tiny, "-o", self.folder / "c.json", ranks=2), 2, "--shared-host")

    def test_a_board_that_dies_while_it_is_measured_ends_all_and_writes_nothing(self):
        target = self.folder / "dead.json"
        command = [*MPIRUN, "-n", "2", JUPITER, "profile", "-m", str(self.tiny), "-o", str(target), "--shared-host", "-t",
                   "1"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True) as process:
            ranks = []
            deadline = time.monotonic() + 30
            while len(ranks) < 2 and time.monotonic() < deadline:
                found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
                ranks = found.stdout.split()
            self.assertEqual(len(ranks), 2)
            time.sleep(0.5)
            os.kill(int(ranks[1]), signal.SIGKILL)
            text = process.communicate(timeout=90)[0]
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("signal 9", text)
        self.assertFalse(target.exists())

    def test_the_doctor(self):
        result = jupiter("profile", "-m", self.tiny, "--check", ranks=2)
        self.assertEqual(result.returncode, 1, result.stderr)  # two ranks share this host
        self.assertIn("share this host", result.stdout)


if __name__ == "__main__":
    unittest.main()
