"""profile, plan, and runs that obey a plan: two ranks on one host stand for two boards."""
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest

from program import ExitPipe, JUPITER, MPIRUN, REAL_MODEL, ProgramTest, jupiter, ranks_of


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
        path, plan, _ = self.plan("--kind", "pipeline")
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

    def one_group(self):
        """A plan in which all three ranks compute every layer together, whatever the measurements were."""
        path, plan = self.all_boards()
        first, *others = plan["stages"]
        plan["stages"] = [{**first, "last_layer": 32, "time_share": 1, "tensor_group": {
            "share": 0.4, "others": [{**board, "share": 0.3} for board in others], "repeat": []}}]
        path.write_text(json.dumps(plan))
        return path, plan

    def test_a_tensor_plan_of_the_planner(self):
        _, plan, text = self.plan("--kind", "tensor")
        self.assertIn("tensor group, shares", text)
        self.assertEqual(len(plan["stages"]), 1)
        group = plan["stages"][0]["tensor_group"]
        self.assertAlmostEqual(group["share"] + sum(board["share"] for board in group["others"]), 1)
        self.assertEqual(len(group["others"]) + len(plan["left_out"]), 2)

    def test_a_plan_expects_drafts_unless_there_are_none(self):
        _, drafted, text = self.plan("--hit-rate", "0.8")
        self.assertEqual(drafted["hit_rate"], 0.8)
        self.assertGreater(drafted["predicted_speculative_tokens_per_s"], drafted["predicted_decode_tokens_per_s"])
        self.assertIn("80 % of drafted tokens are right", text)
        _, plain, _ = self.plan("--decode", "plain")
        self.assertEqual(plain["hit_rate"], 0)
        self.assertEqual(plain["predicted_speculative_tokens_per_s"], plain["predicted_decode_tokens_per_s"])
        self.assertEqual(self.plan()[1]["hit_rate"], 0.3)  # the model has no draft file

    def test_other_systems_and_their_plans_that_run(self):
        folder = self.folder / "baselines"
        _, _, text = self.plan("--baselines", "--baselines-output", folder)
        found = json.loads((folder / "baselines.json").read_text())
        names = [b["name"] for b in found["baselines"]]
        self.assertEqual(names[:6], ["one board", "EdgeShard", "Megatron-LM", "SP", "Galaxy", "DeTransformer"])
        for b in found["baselines"]:
            self.assertIn(b["name"], text)
            self.assertEqual(b["reason"], "", b)
            self.assertGreater(b["request_s"], b["ttft_s"])
            self.assertEqual(len(b["memory_bytes"]), 3)
        alone = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "4")["logits_hash"]
        runnable = [b["plan"] for b in found["baselines"] if "plan" in b]
        self.assertEqual(len(runnable), 7)
        for plan in runnable:
            j = self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "4", "--plan", folder / plan, ranks=3)
            self.assertEqual(j["logits_hash"], alone, plan)

    def test_boards_that_nobody_has(self):
        shape, boards = self.folder / "shape", self.folder / "boards.json"
        result = jupiter("synth", "--shape", "llama2-7b", "--manifest-only", "-o", shape)
        self.assertEqual(result.returncode, 0, result.stderr)
        description = {"boards": [{"name": "pi", "count": 4, "threads": 4, "memory_mib": 2600, "read_gb_per_s": 10,
                                   "int8_gmac_per_s": 100, "float_gmac_per_s": 20}],
                       "network": {"mbit_per_s": 940, "latency_us": 120, "message_us": 30}}
        boards.write_text(json.dumps(description))
        plan = ("plan", "-m", shape, "--boards", boards, "-c", "1024")
        result = jupiter(*plan, "--baselines")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, "one board +out of memory")
        self.assertRegex(result.stdout, r"Jupiter +[0-9.]+ +[0-9.]+")
        self.assertEqual(jupiter(*plan, "--kind", "pipeline", "--simulate").returncode, 0)
        # A manifest alone is no model, and does not hide one.
        self.assert_fails(jupiter("run", "-m", shape, "--raw", "-p", "x"), 3, "tokenizer.h5")
        self.assert_fails(jupiter("synth", "--shape", "tiny", "--manifest-only", "-o", self.tiny), 2, "found a model")
        description["boards"][0]["threads"] = "four"
        boards.write_text(json.dumps(description))
        self.assert_fails(jupiter(*plan), 3, "boards.json", "threads")
        self.assert_fails(jupiter("plan", "-m", self.tiny, "--boards", self.folder / "missing.json"), 3, "missing.json")

    def test_tensor_groups_give_the_same_bits(self):
        """One group of all boards, a group behind a single board, and what every command makes of such a plan."""
        question = ("--raw", "-p", "hello " * 20, "-n", "12")
        alone = self.run_json(self.tiny, *question)["logits_hash"]
        path, plan = self.one_group()
        for repeat in ([], ["wo"], ["w_down", "wo"]):
            plan["stages"][0]["tensor_group"]["repeat"] = repeat
            path.write_text(json.dumps(plan))
            for more in ((), ("--decode", "plain"), ("--spec-mode", "lap")):
                j = self.run_json(self.tiny, *question, "--plan", path, *more, ranks=3)
                self.assertEqual(j["logits_hash"], alone, (repeat, more))
        self.assertEqual([(r["first_layer"], r["last_layer"]) for r in j["ranks"]], [(0, 32)] * 3)
        _, plan = self.all_boards()
        first, second, third = plan["stages"]
        second = {**second, "last_layer": 32,
                  "tensor_group": {"share": 0.5, "others": [{**third, "share": 0.5}], "repeat": []}}
        path.write_text(json.dumps({**plan, "stages": [first, second]}))
        j = self.run_json(self.tiny, *question, "--plan", path, ranks=3)
        self.assertEqual(j["logits_hash"], alone)
        checked = jupiter("eval", "-m", self.tiny, "--self-check", "--plan", path, ranks=3)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    def test_a_shared_output_head_gives_the_same_bits(self):
        """Both other stages help, then one; every way of decoding, the sampler's and the verifier's needs."""
        path, plan = self.all_boards()
        first, second, _ = ({k: s[k] for k in ("host", "slot")} for s in plan["stages"])
        question = ("--raw", "-p", "hello " * 20, "-n", "12")
        for helpers in ([{**first, "share": 0.3}, {**second, "share": 0.3}], [{**second, "share": 0.6}]):
            share = 1 - sum(h["share"] for h in helpers)
            path.write_text(json.dumps({**plan, "output_head": {"share": share, "others": helpers}}))
            for more in ((), ("--decode", "plain"), ("--spec-mode", "lap"), ("--temp", "0.8", "--seed", "3"),
                         ("--temp", "0.8", "--top-k", "0"), ("--repeat-penalty", "1.3")):
                alone = self.run_json(self.tiny, *question, *more)["logits_hash"]
                j = self.run_json(self.tiny, *question, "--plan", path, *more, ranks=3)
                self.assertEqual(j["logits_hash"], alone, (helpers, more))
        checked = jupiter("eval", "-m", self.tiny, "--self-check", "--plan", path, ranks=3)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    def test_nonsense_shares_of_the_output_head(self):
        path, plan = self.all_boards()
        first, _, last = ({k: s[k] for k in ("host", "slot")} for s in plan["stages"])

        def refused(word, share, *others):
            path.write_text(json.dumps({**plan, "output_head": {"share": share, "others": others}}))
            with self.subTest(word):
                self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=3), 3, word)
        refused("sum to 1", 0.9, {**first, "share": 0.3})
        refused("stages before the last one", 0.7, {**last, "share": 0.3})
        refused("stages before the last one", 0.4, {**first, "share": 0.3}, {**first, "share": 0.3})
        refused("at least 16 tokens", 1, {**first, "share": 1e-9})
        refused("share", 0.7, {**first, "share": "x"})

    def test_nonsense_tensor_groups(self):
        path, plan = self.one_group()
        group = plan["stages"][0]["tensor_group"]

        def refused(code, word, **changes):
            stage = {**plan["stages"][0], "tensor_group": {**group, **changes}}
            path.write_text(json.dumps({**plan, "stages": [stage]}))
            with self.subTest(word):
                self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=3), code, word)
        one, two = group["others"]
        refused(3, "sum to 1", share=0.9)
        refused(3, "others", others=7)
        refused(3, "twice", share=group["share"] + two["share"] - one["share"], others=[one, one])
        refused(3, "repeat", repeat=["wq"])
        refused(3, "hidden rows", share=0.98, others=[{**one, "share": 0.01}, {**two, "share": 0.01}])
        refused(2, "nowhere:0", others=[{**one, "host": "nowhere", "slot": 0}, two])

    def test_a_board_that_stops_in_a_gather_is_named(self):
        """Seen by its leader or by another board."""
        path, _ = self.one_group()
        for victim in (1, 2):
            command = [*MPIRUN, "-n", "3", JUPITER, "run", "-m", str(self.tiny), "--raw", "-p", "x", "-n", "900",
                       "--ignore-eos", "--plan", str(path), "--timeout", "3"]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  text=True) as process:
                process.stdout.read(1)  # it answers
                os.kill(ranks_of(process)[2 - victim], signal.SIGSTOP)  # the plan begins with mpirun's last rank
                _, errors = process.communicate(timeout=60)
            with self.subTest(victim):
                self.assertEqual(process.returncode, 5, errors)
                self.assertIn("of the tensor group", errors)
                self.assertRegex(errors, rf"no answer from rank {victim} ")

    def test_an_8_bit_wire_saves_bytes_and_changes_bits_only_between_ranks(self):
        arguments = (self.tiny, "--raw", "-p", "hello " * 20, "-n", "12")
        one, two = (self.run_json(*arguments, "--wire", "q8", ranks=n) for n in (1, 2))
        exact = self.run_json(*arguments, ranks=2)
        self.assertEqual(one["logits_hash"], exact["logits_hash"])
        self.assertNotEqual(two["logits_hash"], exact["logits_hash"])
        sent = [j["ranks"][0]["sent_bytes"] for j in (two, exact)]
        self.assertLess(sent[0], sent[1] * 0.75)
        self.assert_fails(jupiter("run", "-m", self.tiny, "-p", "x", "--wire", "q4"), 2, "--wire", "q4")

    def obeying(self, path, *arguments, **options):
        return self.run_json(self.tiny, "--raw", "--ignore-eos", "-n", "12", "--plan", path, *arguments, ranks=3, **options)

    def test_runs_obey_the_plans_workload(self):
        text = "hello " * 20
        path, plan, _ = self.plan("-p", "64", "-c", "256", "--decode", "plain", "-ctk", "f32", "-ctv", "f32", "--parallel",
                                  "3", "--cache-tokens", "300")
        self.assertEqual({k: plan["workload"][k] for k in ("requests", "most_at_once", "context_tokens", "cache_tokens",
                                                           "type_k", "type_v", "decode")},
                         {"requests": 3, "most_at_once": 3, "context_tokens": 256, "cache_tokens": 300, "type_k": "f32",
                          "type_v": "f32", "decode": "plain"})
        j = self.obeying(path, "-p", text)
        self.assertEqual(j["draft"]["rows"], 0)  # plain
        self.assertEqual(j["logits_hash"], self.run_json(self.tiny, "--raw", "--ignore-eos", "-n", "12", "-p", text, "-ctk",
                                                         "f32", "-ctv", "f32")["logits_hash"])
        # What the command line says goes before it.
        self.assertGreater(self.obeying(path, "-p", text, "--decode", "spec")["draft"]["rows"], 0)
        f16 = self.obeying(path, "-p", text, "-ctk", "f16", "-ctv", "f16")
        self.assertEqual(f16["logits_hash"],
                         self.run_json(self.tiny, "--raw", "--ignore-eos", "-n", "12", "-p", text)["logits_hash"])
        long = ("run", "-m", self.tiny, "--raw", "-n", "2", "-p", "x" * 300, "--plan", path)
        self.assert_fails(jupiter(*long, ranks=3), 2, "256")
        self.assertEqual(jupiter(*long, "-c", "512", ranks=3).returncode, 0)
        # An older plan says the context alone.
        del plan["workload"]
        path.write_text(json.dumps({**plan, "context_tokens": 200}))
        self.assertGreater(self.obeying(path, "-p", text)["draft"]["rows"], 0)
        self.assert_fails(jupiter(*long, ranks=3), 2, "200")

    def test_nonsense_workloads(self):
        path, plan, _ = self.plan()
        for key, value in (("requests", 0), ("context_tokens", 1 << 40), ("type_k", "f8"), ("decode", 7), ("draft_max", 64)):
            path.write_text(json.dumps({**plan, "workload": {**plan["workload"], key: value}}))
            with self.subTest(key):
                self.assert_fails(jupiter("run", "-m", self.tiny, "--raw", "-p", "x", "--plan", path, ranks=3), 3, key)
        plan_options = ("plan", "-m", self.tiny, "--cluster", self.cluster, "-p", "8", "-n", "8")
        for option, value in (("--parallel", "0"), ("--cache-tokens", "-1"), ("-ctk", "f8"), ("--decode", "x"),
                              ("--draft-max", "64"), ("-c", "9999")):
            with self.subTest(option):
                self.assert_fails(jupiter(*plan_options, option, value), 2, value)

    def test_a_plan_for_many_requests_has_the_memory_of_a_batch(self):
        _, one, _ = self.plan()
        _, many, text = self.plan("--objective", "throughput")
        self.assertEqual((many["workload"]["requests"], many["workload"]["cache_tokens"]), (16, 32768))
        self.assertEqual((one["workload"]["requests"], one["workload"]["cache_tokens"]), (1, 512))
        self.assertIn("32768 cached tokens", text)
        # A batch takes the plan's cache, or its own default where the plan is for a single request.
        requests = self.folder / "in.jsonl"
        requests.write_text('{"id": 1, "prompt": "hello", "max_tokens": 4}\n')

        def cache_of_a_batch(*arguments):
            path, _, _ = self.plan(*arguments)
            result = jupiter("batch", "-m", self.tiny, "--raw", "-i", requests, "-o", self.folder / "out.jsonl", "--stats",
                             "--plan", path, ranks=3)
            (self.folder / "out.jsonl").unlink()
            return int(re.search("KV cache of ([0-9]+) positions", result.stderr)[1])
        self.assertGreaterEqual(cache_of_a_batch("--objective", "throughput"), 32768)
        self.assertGreaterEqual(cache_of_a_batch(), 32768)
        self.assertIn(cache_of_a_batch("--cache-tokens", "1024"), range(1024, 2048))
        # Where so much does not fit, a smaller cache is planned, unless it was asked for.
        _, tight, _ = self.plan("--objective", "throughput", "--memory", "60")
        self.assertLess(tight["workload"]["cache_tokens"], 32768)
        self.assert_fails(jupiter("plan", "-m", self.tiny, "--cluster", self.cluster, "-p", "200", "-n", "16", "--objective",
                                  "throughput", "--memory", "60", "--cache-tokens", "32768"), 4, "--cache-tokens")

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


def memory_groups(count):
    """Control groups (or none, where they cannot be made) that limit memory, one a rank: (folder, file of the limit)."""
    parents = [(pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (pathlib.Path("/sys/fs/cgroup"), "memory.max")]
    for parent, limit in parents:
        made = []
        try:
            for _ in range(count):
                made.append(pathlib.Path(tempfile.mkdtemp(prefix="jupiter-test-", dir=parent)))
            if all((g / limit).exists() for g in made):
                return made, limit
        except OSError:
            pass
        for group in made:
            group.rmdir()
    return [], ""


@unittest.skipUnless(REAL_MODEL.exists(), "needs models/smollm2-135m")
class PlannedMemory(ProgramTest):
    """What a plan says of memory, against what two ranks take that use all of it."""
    context = 768

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = cls.folder / "cluster.json"
        result = jupiter("profile", "-m", REAL_MODEL, "-o", cls.cluster, "--shared-host", "--context", "64", "-t", "1", ranks=2)
        assert result.returncode == 0, result.stderr
        cls.prompt = cls.folder / "prompt.txt"
        cls.prompt.write_text("word " * (cls.context - 40))
        cls.text = cls.folder / "text.txt"
        cls.text.write_text("All work and no play makes Jack a dull boy. " * 200)
        cls.requests = cls.folder / "in.jsonl"
        cls.requests.write_text("".join(json.dumps({"id": i, "prompt": "word " * (60 * i + 20), "max_tokens": 30}) + "\n"
                                        for i in range(12)))

    def plan(self, mib, *arguments):
        target = self.folder / "plan.json"
        result = jupiter("plan", "-m", REAL_MODEL, "--cluster", self.cluster, "-p", "256", "-n", "32", "-c", self.context, "-o",
                         target, "--memory", mib, "--kind", "pipeline", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        plan = json.loads(target.read_text())
        self.assertEqual(len(plan["stages"]), 2)
        return target, [s["weight_bytes"] + s["private_bytes"] for s in plan["stages"]]

    def fill(self, path):
        """An answer that ends where the context does."""
        return self.run_json(REAL_MODEL, "--raw", "-f", self.prompt, "--ignore-eos", "-t", "1", "--plan", path, ranks=2)

    def test_no_rank_takes_more_than_planned_nor_much_less(self):
        for mib, options in ((150, ()), (150, ("--decode", "plain")), (190, ("-ctk", "f32", "-ctv", "f32"))):
            path, planned = self.plan(mib, *options)
            j = self.fill(path)
            self.assertEqual(len(j["prompt_token_ids"]) + len(j["generated_token_ids"]), self.context + 1)
            for rank, bytes_planned in zip(j["ranks"], planned):
                with self.subTest(options=options, rank=rank["rank"]):
                    self.assertLessEqual(rank["peak_rss_bytes"], bytes_planned)
                    self.assertLessEqual(bytes_planned, 1.15 * rank["peak_rss_bytes"] + (16 << 20))
        target = self.folder / "eval.json"
        result = jupiter("eval", "-m", REAL_MODEL, "--text", self.text, "--window", "512", "--plan", path, "-t", "1", "--json",
                         target, ranks=2)
        self.assertEqual(result.returncode, 0, result.stderr)
        for rank, bytes_planned in zip(json.loads(target.read_text())["per_rank"], planned):
            self.assertLessEqual(rank["peak_rss_bytes"], bytes_planned)

    def limited(self, groups, *arguments):
        """Rank i in groups[i % n]."""
        wrapper = self.folder / "wrapper.sh"
        choose = "\n".join(f"{i}) echo $$ > {groups[i % len(groups)]}/cgroup.procs;;" for i in range(2))
        wrapper.write_text(f"case $OMPI_COMM_WORLD_RANK in\n{choose}\nesac\nexec \"$@\"\n")
        command = [*MPIRUN, "-n", "2", "sh", wrapper, JUPITER, *map(str, arguments)]
        with ExitPipe() as pipe:
            result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
                                    check=False, env=pipe.environment)
            if result.returncode == 0 and pipe.read() is not None:
                result.returncode = pipe.code
        return result

    def test_planned_work_fits_into_control_groups_of_the_budget(self):
        mib = 165
        groups, limit = memory_groups(2)
        if not groups:
            self.skipTest("no control groups with a memory limit can be made here; peak resident sets were compared above")
        try:
            for group in groups:
                (group / limit).write_text(str(mib << 20))
            path, _ = self.plan(mib, "--parallel", "4", "--cache-tokens", "1024")
            common = ("-m", REAL_MODEL, "--plan", path, "-t", "1")
            target = self.folder / "limited.json"
            whole = self.fill(path)
            for arguments in (("run", *common, "--raw", "-f", self.prompt, "--ignore-eos", "--json", target),
                              ("batch", *common, "-i", self.requests, "-o", self.folder / "out.jsonl"),
                              ("eval", *common, "--text", self.text, "--window", "512")):
                with self.subTest(arguments[0]):
                    result = self.limited(groups, *arguments)
                    self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(json.loads(target.read_text())["logits_hash"], whole["logits_hash"])
            self.assertEqual(len((self.folder / "out.jsonl").read_text().splitlines()), 12)
            # More than the plan's: the check before loading decides, and says what would do.
            result = self.limited(groups, "run", *common, "--raw", "-p", "x", "-n", "4", "-c", "8192")
            self.assertEqual(result.returncode, 4, result.stderr)
            self.assertRegex(result.stderr, "MiB.*use -c [0-9]+ or less")
            # Two ranks of one group share its limit.
            result = self.limited(groups[:1], "run", *common, "--raw", "-p", "x", "-n", "4")
            self.assertEqual(result.returncode, 4, result.stderr)
            self.assertRegex(result.stderr, "ranks 0, 1 together: expected at most [0-9]+ MiB")
            (groups[0] / limit).write_text(str((2 * mib) << 20))
            self.assertEqual(self.limited(groups[:1], "run", *common, "--raw", "-p", "x", "-n", "4").returncode, 0)
        finally:
            for group in groups:
                group.rmdir()


if __name__ == "__main__":
    unittest.main()
