"""The server on a cluster: boards that die, fall silent and come back while answers are streamed; emulated boards whose
links are cut."""
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest

import test_emulate
from local_boards import HOSTS, NEEDED, LocalBoards, can_rename, name_boards, profile
from program import JUPITER, REAL_MODEL, ROOT, ProgramTest
from test_serve import QUESTION, Server, text_of

BODY = {"messages": QUESTION, "max_tokens": 120, "ignore_eos": True, "temperature": 0.8, "seed": 3}


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
@unittest.skipUnless(can_rename(), NEEDED)
class Boards(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.profile = cls.folder / "cluster.json"
        name_boards(profile(REAL_MODEL, cls.profile, 512), cls.profile)
        with Server(REAL_MODEL, "-c", 512, ranks=1) as server:
            cls.undisturbed = text_of(server.stream("/v1/chat/completions", BODY))

    def setUp(self):
        place = self.folder / self.id().rpartition(".")[2]
        place.mkdir()
        self.boards = LocalBoards(place)
        self.addCleanup(lambda: self.boards.send(signal.SIGKILL, *HOSTS))

    def serve(self, *options):
        return Server(REAL_MODEL, "-c", 512, "--cluster", self.profile, "--rsh", self.boards.command,
                      "--address", "127.0.0.1", *options)

    def states(self, server):
        boards = json.loads(server.get("/slots")[1])["boards"]
        return {board["host"]: board["state"] for board in boards}

    def wait_for(self, server, what, limit=60):
        end = time.monotonic() + limit
        while not what(self.states(server)):
            self.assertLess(time.monotonic(), end, f"{self.states(server)} {''.join(server.errors)}")
            time.sleep(0.1)

    def stream_and(self, server, at, action):
        """The text of an answer in whose middle something happens."""
        events = server.stream("/v1/chat/completions", BODY, lambda n: action() if n == at else None)
        return text_of(events)

    def test_a_board_dies_in_an_answer_and_is_taken_in_when_it_is_back(self):
        with self.serve() as server:
            self.assertEqual(self.states(server), dict.fromkeys(HOSTS, "used"))
            text = self.stream_and(server, 30, lambda: self.boards.die("board2"))
            self.assertEqual(text, self.undisturbed)
            self.assertEqual(self.states(server)["board2"], "lost")
            starts = server.metric("rank_starts_total")
            self.boards.come_back("board2")
            self.wait_for(server, lambda states: states == dict.fromkeys(HOSTS, "used"))
            server.wait_until_healthy()
            self.assertEqual(server.metric("rank_starts_total"), starts + 1)
            self.assertEqual(self.stream_and(server, 30, lambda: None), self.undisturbed)

    def test_the_first_board_falls_silent_and_comes_back_in_the_answer(self):
        with self.serve("--rejoin", 0) as server:
            def die():
                self.boards.die("board1", number=signal.SIGSTOP)

            def come_back():
                self.boards.come_back("board1")
                self.boards.send(signal.SIGCONT, "board1")

            actions = {10: die, 25: come_back}
            events = server.stream("/v1/chat/completions", BODY, lambda n: actions.get(n, int)())
            self.assertEqual(text_of(events), self.undisturbed)
            self.wait_for(server, lambda states: states == dict.fromkeys(HOSTS, "used"))

    def test_no_board_is_left_for_a_while(self):
        with self.serve() as server:
            connection, response = server.open_stream("/v1/chat/completions", BODY)
            events, done = [], False
            for line in response:
                if line.startswith(b":") and (self.boards.folder / "dead-board1").exists():
                    self.boards.come_back(*HOSTS)  # a ping in the pause
                if line.startswith(b"data: {"):
                    events.append(json.loads(line[6:]))
                    if len(events) == 30:
                        self.boards.die(*HOSTS)
                done = done or line.strip() == b"data: [DONE]"
            connection.close()
            self.assertTrue(done)
            self.assertEqual(text_of(events), self.undisturbed)
            self.assertIn("waiting for boards", "".join(server.errors))

    def test_bad_clusters(self):
        for options, code, words in ((("--cluster", "/nowhere"), 3, "expected a profile"),
                                     (("--cluster", self.profile, "--plan-options", "--memory 0"), 4, "no plan"),
                                     (("--cluster", self.profile, "--silent", "soon"), 2, "expected a number"),
                                     (("--cluster", "a", "--emulate", "b"), 2, "found both")):
            with self.subTest(options=options):
                command = [ROOT / "jobs" / "jupiter-serve", "-m", REAL_MODEL, "--rsh", self.boards.command, *options]
                result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, check=False, timeout=60,
                                        env=dict(os.environ, JUPITER=JUPITER))
                self.assertEqual(result.returncode, code, result.stderr)
                self.assertIn(words, result.stderr)


@unittest.skipUnless(REAL_MODEL.exists(), "models/smollm2-135m is not there (bash jobs/quickstart.sh makes it)")
class EmulatedBoards(ProgramTest):
    def setUp(self):
        if reason := test_emulate.why_not():
            self.skipTest(reason)
        self.addCleanup(test_emulate.emulate, "down")

    def test_links_are_cut_and_boards_freeze(self):
        boards = self.folder / "three.boards"
        boards.write_text("b0 40\nb1 40\nb2 40\n")
        os.environ["EMULATE_NAME"] = test_emulate.NAME
        self.addCleanup(os.environ.pop, "EMULATE_NAME")
        with Server(REAL_MODEL, "-c", 512, "--emulate", boards, "--plan-options", "--objective throughput") as server:
            undisturbed = text_of(server.stream("/v1/chat/completions", BODY))
            used = json.loads(server.get("/slots")[1])["boards"]
            self.assertEqual({b["state"] for b in used}, {"used"})
            link = f"{test_emulate.NAME}2"
            cut = lambda: subprocess.run(["ip", "link", "set", link, "down"], check=True)
            events = server.stream("/v1/chat/completions", BODY, lambda n: cut() if n == 15 else None)
            self.assertEqual(text_of(events), undisturbed)
            states = {b["host"]: b["state"] for b in json.loads(server.get("/slots")[1])["boards"]}
            self.assertEqual(states, {"b0": "used", "b1": "lost", "b2": "used"})
            freeze = lambda: self.stop_processes("b2")
            events = server.stream("/v1/chat/completions", BODY, lambda n: freeze() if n == 15 else None)
            self.assertEqual(text_of(events), undisturbed)
        self.assertEqual(server.code, 143)
        self.assertEqual(test_emulate.leftovers(), [])

    def stop_processes(self, board):
        state = json.loads((pathlib.Path("/var/lib/jupiter-emulate") / test_emulate.NAME / "cluster.json").read_text())
        group = next(b["groups"][0] for b in state["boards"] if b["name"] == board)
        for pid in (pathlib.Path(group) / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGSTOP)


if __name__ == "__main__":
    unittest.main()
