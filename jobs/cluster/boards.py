"""Boards of a cluster: which of them answer, plans for those that do, and emulated ones. For supervise, jupiter-serve
and serve-speed.py."""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import threading
import time

from jupiter_program import BINARY, ROOT

PROBE_TIMEOUT_S = 10
SSH = "ssh -o BatchMode=yes -o ConnectTimeout=5"


class GiveUp(Exception):
    """Message and exit code."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def read_json(path, what):
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise GiveUp(3, f"{path}: expected {what}, found: {e}") from e


def hosts_of(cluster):
    """In the profile's order."""
    try:
        hosts = list(dict.fromkeys(board["host"] for board in read_json(cluster, "a profile")["boards"]))
    except (KeyError, TypeError) as e:
        raise GiveUp(3, f"{cluster}: expected a profile (jupiter profile writes it), found no {e}") from e
    for host in hosts:
        if not re.fullmatch(r"[\w.][\w.-]*", str(host)):
            raise GiveUp(3, f"{cluster}: expected a host's name, found '{host}'")
    return hosts


def is_here(host):
    return host == socket.gethostname()


class RemoteShell:
    """Runs commands on hosts: `rsh` is a command line to which the host and what a shell there reads are added."""

    def __init__(self, rsh):
        self.words = shlex.split(rsh)

    def command(self, host, text):
        return ["sh", "-c", text] if is_here(host) else [*self.words, host, text]

    def succeeds(self, host, text):
        try:
            return subprocess.run(self.command(host, text), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=PROBE_TIMEOUT_S, check=False).returncode == 0
        except (subprocess.TimeoutExpired, OSError):
            return False

    def on_all(self, hosts, text):
        """The hosts where it does not succeed; at the same time on all."""
        if not hosts:
            return []
        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            done = list(pool.map(lambda host: self.succeeds(host, text), hosts))
        return [host for host, good in zip(hosts, done) if not good]


class Heartbeats:
    """Which hosts are alive: each sends a line four times a second over a remote shell that stays open. A board without
    power, without its link or frozen falls silent long before TCP or mpirun notice. The same shell runs commands, since
    opening another one takes up to a second."""

    # Ends by itself once nobody reads it, or its input ends.
    BEAT = ("while echo; do sleep 0.25; done & "
            'while read -r line; do sh -c "$line" >/dev/null 2>&1 </dev/null; echo done; done; kill $!')
    AGAIN_S = 1  # from the end of a shell to the next try
    COMMAND_LIMIT_S = 2

    def __init__(self, hosts, rsh, silent_s):
        self.rsh, self.silent_s = RemoteShell(rsh), silent_s
        self.beats = {host: None for host in hosts}  # when the newest came
        self.since = {host: None for host in hosts}  # alive without a gap since then
        self.shells = {}
        self.commanded = set()  # hosts that have not done yet what they were told
        self.ended = False
        self.lock = threading.Lock()
        for host in hosts:
            if not is_here(host):
                threading.Thread(target=self.listen, args=(host,), daemon=True).start()
        threading.Thread(target=self.drop_silent, daemon=True).start()

    def listen(self, host):
        while not self.ended:
            try:
                shell = subprocess.Popen(self.rsh.command(host, self.BEAT), stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
            except OSError:
                time.sleep(self.AGAIN_S)
                continue
            with self.lock:
                self.shells[host] = (shell, time.monotonic())
            for line in shell.stdout:
                with self.lock:
                    if line.strip() == b"done":
                        self.commanded.discard(host)
                    self.beats[host] = time.monotonic()
                    self.since[host] = self.since[host] or self.beats[host]
            with self.lock:
                self.beats[host] = self.since[host] = None
            shell.kill()
            shell.wait()
            shell.stdin.close()
            time.sleep(self.AGAIN_S)

    def drop_silent(self):
        """Judges ten times a second. When this process itself did not get to run for a while, no board is to blame. A
        shell that hangs in a dead connection gives way to a new one."""
        before = time.monotonic()
        while not self.ended:
            time.sleep(0.1)
            now = time.monotonic()
            own_pause, before = now - before - 0.1, now
            with self.lock:
                for host, (shell, started) in self.shells.items():
                    if self.beats[host] is None:
                        if now - started > PROBE_TIMEOUT_S and shell.poll() is None:
                            shell.kill()
                        continue
                    if own_pause > 0.2:
                        self.beats[host] = min(now, self.beats[host] + own_pause)
                    if now - self.beats[host] > self.silent_s:
                        self.beats[host] = self.since[host] = None
                        self.shells[host] = shell, now

    def alive_s(self, host):
        """For how long it has been alive; 0: it is not."""
        if is_here(host):
            return float("inf")
        with self.lock:
            return 0 if self.since[host] is None else max(time.monotonic() - self.since[host], 1e-9)

    def lost(self):
        return [host for host in self.beats if self.alive_s(host) == 0]

    def run(self, text):
        """A command line on every other host that is alive; returns when all have done it that stay alive."""
        deadline = time.monotonic() + self.COMMAND_LIMIT_S
        with self.lock:
            self.commanded = {host for host in self.shells if self.beats[host] is not None}
            for host in sorted(self.commanded):
                try:
                    os.write(self.shells[host][0].stdin.fileno(), text.encode() + b"\n")
                except (OSError, ValueError):
                    self.commanded.discard(host)  # its shell has just ended
        while time.monotonic() < deadline:
            with self.lock:
                if not any(self.beats[host] is not None for host in self.commanded):
                    return
            time.sleep(0.01)

    def end(self):
        self.ended = True
        with self.lock:
            for shell, _ in self.shells.values():
                shell.kill()


def placed(plan):
    """The plan with each host's slots numbered in the order of the pipeline (they are alike), nothing idle started; and
    the host of each rank."""
    ranks = {}
    boards = [*plan["stages"], *(board for stage in plan["stages"]
                                 for board in stage.get("tensor_group", {}).get("others", []))]
    for board in boards:
        board["slot"] = ranks[board["host"]] = ranks.get(board["host"], -1) + 1
    plan["left_out"] = []
    return plan, [host for host, last in ranks.items() for _ in range(last + 1)]


def make_plan(model, cluster, silent, options, folder):
    """(plan file, host file, host of each rank) for the boards that are not silent; the files are in the folder."""
    path, hosts_file = folder / "plan.json", folder / "hosts"
    without = [word for host in silent for word in ("--without", host)]
    result = subprocess.run([BINARY, "plan", "-m", model, "--cluster", cluster, "-o", path, *without,
                             *shlex.split(options)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            check=False)
    if result.returncode != 0:
        left = f" without {', '.join(silent)}" if silent else ""
        raise GiveUp(result.returncode, f"no plan{left}: {result.stderr.strip()}")
    plan, hosts = placed(read_json(path, "a plan"))
    path.write_text(json.dumps(plan))
    hosts_file.write_text("".join(f"{host}\n" for host in hosts))
    return path, hosts_file, hosts


class EmulatedBoards:
    """Boards of a file (jobs/emulate/boards) that come up on this machine, and what a server on them wants: the
    profile, the remote shell, options of mpirun, and this machine's address in their network."""

    def __init__(self, file, model, folder):
        self.emulate = str(ROOT / "jobs" / "emulate" / "emulate")
        self.call("up", file, "--join")
        self.profile = str(folder / "cluster.json")
        try:
            self.call("mpirun", BINARY, "profile", "-m", model, "-o", self.profile)
        except GiveUp:
            self.end()
            raise
        launcher = json.loads(self.call("launcher"))
        self.rsh, self.mpirun, self.address = launcher["rsh"], launcher["mpirun"], launcher["address"]

    def call(self, *arguments):
        result = subprocess.run([self.emulate, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, check=False)
        if result.returncode != 0:
            raise GiveUp(result.returncode, result.stderr.strip())
        return result.stdout

    def end(self):
        subprocess.run([self.emulate, "down"], check=False)
