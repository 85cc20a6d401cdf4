"""jobs/slurm on a real Slurm of four nodes that tests/slurm/slurm-here starts on this machine. Skips without root, the
packages slurm-wlm and munge (`sudo apt install slurm-wlm munge`), or where Slurm cannot start."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from program import JUPITER, ROOT, ProgramTest, jupiter

HERE = ROOT / "tests" / "slurm" / "slurm-here"
SCRIPTS = ROOT / "jobs" / "slurm"
BATCH = "--raw --ignore-eos --cache-tokens 512 -c 256"
def why_not():
    if os.geteuid() != 0:
        return "needs root"
    missing = [p for p in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(p) is None]
    return f"needs {', '.join(missing)} (packages slurm-wlm and munge)" if missing else None


@unittest.skipIf(why_not(), why_not())
class Slurm(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.slurm = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))
        cls.addClassCleanup(subprocess.run, [HERE, "stop", cls.slurm], check=False)
        try:
            subprocess.run([HERE, "start", cls.slurm], check=True, timeout=120, stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True)
        except subprocess.SubprocessError as e:
            raise unittest.SkipTest(f"Slurm cannot be started here: {e.stderr or e}") from e
        os.environ["SLURM_CONF"] = str(cls.slurm / "slurm.conf")
        cls.addClassCleanup(os.environ.pop, "SLURM_CONF")

    def setUp(self):
        self.out = self.folder / self.id().rpartition(".")[2]
        self.out.mkdir()

    def submit(self, script, *options, **variables):
        """The job's id. SLURM_HOSTS=local: the nodes are this machine, no daemons are started through srun."""
        environment = {**os.environ, "JUPITER_ROOT": str(ROOT), "JUPITER": JUPITER, "MODEL": str(self.tiny),
                       "OUT": str(self.out), "SLURM_HOSTS": "local", **variables}
        result = subprocess.run(["sbatch", "--parsable", "-o", self.out / "log-%A-%a", *options, SCRIPTS / script],
                                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.strip()

    def state(self, job):
        text = subprocess.run(["scontrol", "show", "job", job], stdout=subprocess.PIPE, text=True, check=False).stdout
        states = [word.partition("=")[2] for word in text.split() if word.startswith("JobState=")]
        return states, text

    def wait(self, job, wanted="COMPLETED", seconds=90):
        deadline = time.monotonic() + seconds
        while True:
            states, text = self.state(job)
            if states and all(s not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED") for s in states):
                break
            self.assertLess(time.monotonic(), deadline, text + self.logs())
            time.sleep(0.3)
        self.assertEqual(set(states), {wanted}, text + self.logs())

    def logs(self):
        return "\n".join(p.read_text() for p in sorted(self.out.glob("log-*")))

    def test_run(self):
        self.wait(self.submit("run.sbatch", "-N", "4", PROMPT="hello", TOKENS="6", RUN="--raw"))
        j = json.loads((self.out / "run.json").read_text())
        self.assertEqual(len(j["ranks"]), 4)
        self.assertEqual(j["logits_hash"], self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "6")["logits_hash"])

    def test_run_through_srun(self):
        types = subprocess.run(["srun", "--mpi=list"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               check=False)
        if "pmix" not in types.stdout:
            self.skipTest("this Slurm has no pmix")
        self.wait(self.submit("run.sbatch", "-N", "4", LAUNCHER="srun", PROMPT="hello", TOKENS="6", RUN="--raw"))
        j = json.loads((self.out / "run.json").read_text())
        self.assertEqual(len(j["ranks"]), 4)
        self.assertEqual(j["logits_hash"], self.run_json(self.tiny, "--raw", "-p", "hello", "-n", "6")["logits_hash"])

    def test_eval_fails_where_a_metric_moved(self):
        baseline = self.out / "baseline.json"
        result = jupiter("eval", "-m", self.tiny, "--self-check", "--baseline", baseline, "--update-baseline")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.wait(self.submit("eval.sbatch", "-N", "2", BASELINE=str(baseline)))
        self.assertIn("testsuite", (self.out / "eval.xml").read_text())
        j = json.loads(baseline.read_text())
        j["metrics"]["logits_hash"]["value"] = "0" * 16
        baseline.write_text(json.dumps(j))
        job = self.submit("eval.sbatch", "-N", "2", BASELINE=str(baseline))
        self.wait(job, "FAILED")
        self.assertIn("ExitCode=1:0", self.state(job)[1])

    def test_bench_array(self):
        models = self.out / "models"
        models.write_text(f"{self.tiny}\n{self.tiny}\n")
        job = self.submit("bench.sbatch", "-N", "1", "--array=1-2", MODELS=str(models), BENCH="-p 8 -n 4 -r 2")
        self.wait(job)
        for index in (1, 2):
            rows = json.loads((self.out / f"bench-{index}.json").read_text())
            self.assertEqual(len(rows), 2)

    def test_chain_of_profile_plan_and_run(self):
        environment = {**os.environ, "JUPITER_ROOT": str(ROOT), "JUPITER": JUPITER, "MODEL": str(self.tiny),
                       "OUT": str(self.out), "SLURM_HOSTS": "local", "PROMPT": "hello", "TOKENS": "6", "RUN": "--raw",
                       "PROFILE": "--shared-host --context 64 -t 1", "PLAN_OPTIONS": "-p 64 -n 8 -c 128"}
        result = subprocess.run(["bash", SCRIPTS / "chain.sh", "-N", "2", "-o", self.out / "log-%j"], env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        for job in result.stdout.split():
            self.wait(job)
        self.assertIn("plan_hash", json.loads((self.out / "run.json").read_text()))

    def test_a_failed_profile_ends_the_chain(self):
        environment = {**os.environ, "JUPITER_ROOT": str(ROOT), "JUPITER": JUPITER, "MODEL": "/nowhere",
                       "OUT": str(self.out), "SLURM_HOSTS": "local"}
        result = subprocess.run(["bash", SCRIPTS / "chain.sh", "-N", "2", "-o", self.out / "log-%j"], env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        profile, plan, run = result.stdout.split()
        self.wait(profile, "FAILED")
        self.wait(plan, "CANCELLED")
        self.wait(run, "CANCELLED")

    def requests(self, count, tokens):
        source = self.out / "in-3.jsonl"
        source.write_text("".join(json.dumps({"id": i, "prompt": f"request {i}", "max_tokens": tokens}) + "\n"
                                  for i in range(count)))
        return source

    def wait_for_answers(self, target, count):
        deadline = time.monotonic() + 60
        while not target.exists() or target.read_bytes().count(b"\n") < count:
            self.assertLess(time.monotonic(), deadline, self.logs())
            time.sleep(0.02)

    def assert_requeued_and_done(self, job, target, count):
        deadline = time.monotonic() + 90
        while self.state(job)[0] == ["RUNNING"] and "Restarts=0" in self.state(job)[1]:
            self.assertLess(time.monotonic(), deadline, self.logs())
            time.sleep(0.1)
        begun = target.read_bytes().count(b"\n")
        self.assertLess(begun, count)
        self.wait(job, seconds=240)
        self.assertRegex(self.state(job)[1], r"Restarts=[1-9]")
        lines = [json.loads(line) for line in target.read_text().splitlines()]
        self.assertEqual(sorted(line["id"] for line in lines), list(range(count)))
        self.assertTrue(all(line["generated_token_ids"] for line in lines))

    def test_sigterm_requeues_a_batch_that_then_goes_on(self):
        count = 300
        self.requests(count, tokens=100)
        job = self.submit("batch.sbatch", "-N", "2", "--array=3", IN=str(self.out / "in-%.jsonl"), BATCH=BATCH) + "_3"
        self.wait_for_answers(self.out / "answers-3.jsonl", 3)
        subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
        self.assert_requeued_and_done(job, self.out / "answers-3.jsonl", count)

    def test_a_requeue_from_outside_in_mid_batch(self):
        count = 300
        job = self.submit("batch.sbatch", "-N", "2", IN=str(self.requests(count, tokens=100)), BATCH=BATCH)
        self.wait_for_answers(self.out / "answers.jsonl", 3)
        subprocess.run(["scontrol", "requeue", job], check=True)
        self.assert_requeued_and_done(job, self.out / "answers.jsonl", count)

    def long_test_of_the_time_limit(self):
        """Slurm sends SIGTERM so long before the limit (--signal); limits are whole minutes. It takes some minutes of a
        quiet machine, so nobody runs it who does not ask for it by name."""
        count = 2000
        job = self.submit("batch.sbatch", "-N", "2", "--time=1", "--signal=B:TERM@45",
                          IN=str(self.requests(count, tokens=300)), BATCH=BATCH)
        self.wait_for_answers(self.out / "answers.jsonl", 3)
        self.assert_requeued_and_done(job, self.out / "answers.jsonl", count)


if __name__ == "__main__":
    unittest.main()
