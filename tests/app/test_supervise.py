"""jobs/cluster/supervise: local ranks as boards, and boards that are host names of their own (unshare), one of which
dies."""
import json
import os
import pathlib
import shlex
import signal
import subprocess
import time
import unittest

from local_boards import HOSTS, NEEDED, LocalBoards, can_rename, name_boards, profile
from program import ROOT, ProgramTest

COUNT = 60


class Supervise(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.local, cls.named = cls.folder / "cluster.json", cls.folder / "named.json"
        name_boards(profile(cls.tiny, cls.local, 128), cls.named)

    def setUp(self):
        self.place = self.folder / self.id().rpartition(".")[2]
        self.place.mkdir()
        self.source, self.out = self.place / "in.jsonl", self.place / "out.jsonl"
        self.source.write_text("".join(json.dumps({"id": i, "prompt": f"request {i}", "max_tokens": 40}) + "\n"
                                       for i in range(COUNT)))
        self.rsh = LocalBoards(self.place).rsh
        self.log = self.place / "log"

    def start(self, cluster, *arguments, plan="-p 64 -n 8 -c 128 --objective throughput"):
        command = [ROOT / "jobs" / "cluster" / "supervise", "-m", self.tiny, "-i", self.source, "-o", self.out,
                   "--cluster", cluster, "--rsh", shlex.quote(str(self.rsh)),
                   "--mpirun", f"--mca plm_rsh_agent {self.rsh}",
                   "--plan-options", plan, *arguments, "--", "--raw", "--cache-tokens", "256", "-c", "128"]
        with open(self.log, "w", encoding="utf-8") as log:
            process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env=dict(os.environ, JUPITER_KILL_AFTER_S="1"))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def ends(self, process, code):
        self.assertEqual(process.wait(120), code, self.log.read_text())
        return self.log.read_text()

    def wait_for_answers(self, count):
        deadline = time.monotonic() + 60
        while not self.out.exists() or self.out.read_bytes().count(b"\n") < count:
            self.assertLess(time.monotonic(), deadline, self.log.read_text())
            time.sleep(0.005)

    def ranks(self, variable):
        """Processes of this test's batch that have NAME=VALUE in their environment."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    if str(self.out).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
            except OSError:
                continue
        return found

    def kill(self, variable):
        pids = self.ranks(variable)
        self.assertTrue(pids, variable + self.log.read_text())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def assert_all_answered_once(self):
        lines = [json.loads(line) for line in self.out.read_text().splitlines()]
        self.assertEqual(sorted(line["id"] for line in lines), list(range(COUNT)))
        self.assertTrue(all(line["generated_token_ids"] for line in lines))
        self.assertEqual(list(self.place.glob(".supervise-*")), [])

    def test_a_killed_rank(self):
        process = self.start(self.local)
        self.wait_for_answers(5)
        self.kill("OMPI_COMM_WORLD_RANK=1")
        text = self.ends(process, 0)
        self.assertIn("restart 1 of at most 20", text)
        self.assertNotIn("left out", text)
        self.assert_all_answered_once()

    @unittest.skipUnless(can_rename(), NEEDED)
    def test_a_dead_board_is_left_out(self):
        process = self.start(self.named)
        self.wait_for_answers(5)
        dead = [host for host in HOSTS if self.ranks(f"BOARD={host}")][-1]
        (self.place / f"dead-{dead}").touch()
        self.kill(f"BOARD={dead}")
        text = self.ends(process, 0)
        self.assertIn(f"left out, no answer: {dead}", text)
        self.assertNotIn(dead, text.partition("restart 1 of")[2].partition(";")[0])
        self.assert_all_answered_once()

    @unittest.skipUnless(can_rename(), NEEDED)
    def test_a_board_that_does_not_answer_ends_a_start_that_hangs(self):
        process = self.start(self.named, "--probe-s", "0.2", "--stop-s", "5")
        self.wait_for_answers(2)
        dead = [host for host in HOSTS if self.ranks(f"BOARD={host}")][-1]
        for pid in self.ranks(f"BOARD={dead}"):
            os.kill(pid, signal.SIGSTOP)
        (self.place / f"dead-{dead}").touch()
        text = self.ends(process, 0)
        self.assertIn(f"{dead}: no answer; ending this start", text)
        self.assert_all_answered_once()

    def test_what_a_restart_does_not_mend(self):
        profile = json.loads(self.named.read_text())
        for host in HOSTS:
            (self.place / f"dead-{host}").touch()
        text = self.ends(self.start(self.named), 5)
        self.assertIn("no board answers", text)
        text = self.ends(self.start(self.local, plan="-p 64 -n 8 -c 128 --memory 0"), 4)
        self.assertIn("no plan", text)
        self.assertIn("--without", self.ends(self.start(self.local, plan="--without nobody"), 2))
        profile["boards"][0]["host"] = "-oProxyCommand=x"
        bad = self.place / "bad.json"
        bad.write_text(json.dumps(profile))
        self.assertIn("expected a host's name", self.ends(self.start(bad), 3))
        self.out.write_text('{"id":0,"text":"","model_hash":"0000000000000000"}\n')
        text = self.ends(self.start(self.local), 3)
        self.assertIn("line 1", text)
        self.assertNotIn("restart 1", text)

    def test_it_gives_up_after_so_many_restarts(self):
        process = self.start(self.local, "--restarts", "0")
        self.wait_for_answers(2)
        self.kill("OMPI_COMM_WORLD_RANK=0")
        self.assertIn("gave up after 0 restarts", self.ends(process, 5))

    def test_sigterm_ends_it_and_the_next_start_goes_on(self):
        process = self.start(self.local)
        self.wait_for_answers(2)
        process.terminate()
        self.assertNotIn("restart 1", self.ends(process, 143))
        self.assertLess(self.out.read_bytes().count(b"\n"), COUNT)
        self.ends(self.start(self.local), 0)
        self.assert_all_answered_once()


if __name__ == "__main__":
    unittest.main()
