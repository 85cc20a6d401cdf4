"""jobs/emulate/emulate: boards that are slow, alike and gone afterwards. Skips without root, namespaces or a
freezer."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

from program import JUPITER, ROOT, ProgramTest, jupiter

EMULATE = ROOT / "jobs" / "emulate" / "emulate"
NAME = "juptest"  # beside a cluster that someone measures with
TWO_BOARDS = "b0 30 0\nb1 20 64  # MiB\n"


def emulate(*arguments, env=None, timeout=120):
    return subprocess.run([str(EMULATE), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, check=False,
                          env=dict(os.environ, EMULATE_NAME=NAME, **(env or {})))


def leftovers():
    """Whatever of the test's cluster is still on this machine."""
    found = [n for n in os.listdir("/sys/class/net") if re.fullmatch(rf"{NAME}(br|\d+)", n)]
    found += pathlib.Path("/run/netns").glob(f"{NAME}-*")
    found += pathlib.Path("/sys/fs/cgroup").glob(f"**/{NAME}")
    found += pathlib.Path("/var/lib/jupiter-emulate").glob(NAME)
    return found + pacers()


def pacers():
    """Process ids."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            program = os.readlink(process / "exe")
            if f"/jupiter-emulate/{NAME}/emulate-pacer" in program:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def why_not():
    """Why boards cannot be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "tc", "nsenter", "unshare", "g++", "mpirun"):
        if shutil.which(program) is None:
            return f"needs {program}"
    probe = pathlib.Path("/tmp/juptest-probe.boards")
    probe.write_text("b0 20\n")
    result = emulate("up", probe)
    emulate("down")
    probe.unlink()
    return result.stderr.strip() if result.returncode != 0 else None


class Arguments(unittest.TestCase):
    """What is refused before anything is made."""

    def test_needs_root(self):
        if os.geteuid() != 0:
            result = emulate("list")
        else:
            nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            result = subprocess.run([*nobody, str(EMULATE), "list"],
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("root", result.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "needs root")
    def test_bad_arguments(self):
        folder = pathlib.Path("/tmp")
        board_file = folder / "juptest.boards"
        for text, word in (("b0 0\n", ":1:"), ("b0 20\nb0 20\n", ":2:"), ("b0\n", ":1:"), ("b0 x\n", ":1:"),
                           ("", "boards"), ("b0 20 -1\n", ":1:"), ("B/ 20\n", ":1:"),
                           ("".join(f"b{i} 99\n" for i in range(100)), "does not fit")):
            with self.subTest(text=text[:20]):
                board_file.write_text(text)
                result = emulate("up", board_file)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(word, result.stderr)
        board_file.write_text(TWO_BOARDS)
        for arguments in (["up"], ["up", "/nowhere"], ["up", board_file, "--rate"],
                          ["up", board_file, "--rate", "fast"], ["up", board_file, "--mount", "/nowhere:/tmp"],
                          ["sideways"], []):
            with self.subTest(arguments=arguments):
                self.assertEqual(emulate(*arguments).returncode, 2)
        self.assertEqual(emulate("up", board_file, env={"PERIOD_US": "often"}).returncode, 2)
        self.assertEqual(emulate("mpirun", "hostname").returncode, 1)  # no boards are up
        board_file.unlink()
        self.assertEqual(leftovers(), [])


class Boards(ProgramTest):
    @classmethod
    def setUpClass(cls):
        reason = why_not()
        if reason:
            raise unittest.SkipTest(reason)
        super().setUpClass()
        cls.boards = cls.folder / "two.boards"
        cls.boards.write_text(TWO_BOARDS)

    def setUp(self):
        self.addCleanup(emulate, "down")

    def up(self, *arguments, env=None):
        result = emulate("up", self.boards, *arguments, env=env)
        self.assertEqual(result.returncode, 0, result.stderr)

    def assert_gone(self):
        self.assertEqual(emulate("down").returncode, 0)
        self.assertEqual(leftovers(), [])

    def test_busy_boards_answer_their_remote_shell(self):
        """As any board's scheduler lets them: signs of life must come while ranks compute."""
        self.up("--join")
        rsh = json.loads(emulate("launcher").stdout)["rsh"]
        busy = [subprocess.Popen([str(EMULATE), "on", board, "sh", "-c", "while :; do :; done"],
                                 env=dict(os.environ, EMULATE_NAME=NAME)) for board in ("b0", "b0", "b1")]
        try:
            time.sleep(1)
            for board in ("b0", "b1"):
                command = [rsh, board, "for i in 1 2 3; do sleep 0.1; echo $i; done"]
                result = subprocess.run(command, timeout=60, check=False, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                self.assertEqual((result.returncode, result.stdout), (0, "1\n2\n3\n"), result.stderr)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        self.assert_gone()

    def test_speed_of_bursts(self):
        """With either version of control groups: a speed for every board and burst. How fast is for a person to read."""
        for version in ("1", "2"):
            result = emulate("up", self.boards, env={"EMULATE_CGROUP": version})
            if result.returncode == 1 and "control groups" in result.stderr:
                continue  # this machine has the other version only
            self.assertEqual(result.returncode, 0, result.stderr)
            rows = [line.split() for line in emulate("selftest").stdout.splitlines()[1:]]
            self.assertEqual([row[0] for row in rows], ["b0", "b1"])
            for row in rows:
                share, *speeds = map(float, row[1:])
                self.assertEqual(len(speeds), 4)
                self.assertIn(share, (0.2, 0.3))
                self.assertTrue(all(speed > 0 for speed in speeds), row)
            self.assert_gone()

    def test_a_run_over_two_boards_has_the_bits_of_one_rank(self):
        prompt = ("-p", "The quick brown fox jumps over the lazy dog.", "--raw", "-n", "16")
        alone = self.run_json(self.tiny, *prompt)
        self.up("--rate", "100")
        target = self.folder / "boards.json"
        result = emulate("mpirun", JUPITER, "run", "-m", self.tiny, "--json", target, *prompt)
        self.assertEqual(result.returncode, 0, result.stderr)
        j = json.loads(target.read_text())
        self.assertEqual(j["logits_hash"], alone["logits_hash"])
        self.assertEqual([r["host"] for r in j["ranks"]], ["b0", "b1"])
        self.assert_gone()

    def test_boards_have_names_memory_limits_and_folders_of_their_own(self):
        own, common = self.folder / "own", self.folder / "common"
        for folder in (own / "b0", own / "b1", common):
            folder.mkdir(parents=True)
            (folder / "name").write_text(folder.name)
        self.up("--mount", f"{own}:{common}")
        for board in ("b0", "b1"):
            result = emulate("on", board, "sh", "-c", f"hostname; cat {common}/name; echo; nproc")
            self.assertEqual(result.stdout.split(), [board, board, "1"], result.stderr)
        self.assertEqual((common / "name").read_text(), "common")
        hungry = "x = bytearray(200 << 20)"
        self.assertEqual(emulate("on", "b0", "python3", "-c", hungry).returncode, 0)
        self.assertNotEqual(emulate("on", "b1", "python3", "-c", hungry).returncode, 0)
        self.assertEqual(emulate("on", "b9", "true").returncode, 2)
        self.assertEqual(emulate("on", "b1", "sh", "-c", "exit 7").returncode, 7)

    def test_interrupted_or_killed_start_leaves_nothing(self):
        """At several moments of `up`: SIGTERM cleans up itself, after SIGKILL the next command does."""
        for after_s in (0.05, 0.2, 0.5, 0.8, 1.1):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with self.subTest(after_s=after_s, number=number):
                    start = subprocess.Popen([str(EMULATE), "up", str(self.boards)], stdout=subprocess.DEVNULL,
                                             stderr=subprocess.DEVNULL, env=dict(os.environ, EMULATE_NAME=NAME))
                    time.sleep(after_s)
                    start.send_signal(number)
                    code = start.wait(timeout=60)
                    if number == signal.SIGTERM and code != 0 and code != -signal.SIGTERM:
                        self.assertEqual(code, 128 + signal.SIGTERM)
                        self.assertEqual(leftovers(), [])
                    self.assert_gone()

    def test_killed_pacer(self):
        """Boards stay frozen: commands say so instead of waiting, `down` and the next `up` end what hangs there."""
        for clean in ("down", "up"):
            self.up()
            sleeper = subprocess.Popen([str(EMULATE), "on", "b0", "sleep", "1000"],
                                       env=dict(os.environ, EMULATE_NAME=NAME))
            time.sleep(0.5)
            for pid in pacers():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
            for command in (["mpirun", "hostname"], ["on", "b0", "true"], ["selftest"]):
                result = emulate(*command)
                self.assertEqual(result.returncode, 1)
                self.assertIn("pacer", result.stderr)
            if clean == "up":
                self.up()
                self.assertEqual(emulate("on", "b0", "echo", "alive").stdout, "alive\n")
            self.assert_gone()
            self.assertEqual(sleeper.wait(timeout=10), -signal.SIGKILL)

    def test_killed_mpirun(self):
        self.up()
        run = subprocess.Popen([str(EMULATE), "mpirun", "sleep", "1000"], env=dict(os.environ, EMULATE_NAME=NAME),
                               stderr=subprocess.DEVNULL)
        time.sleep(2)
        run.kill()
        run.wait()
        self.assert_gone()


if __name__ == "__main__":
    unittest.main()
