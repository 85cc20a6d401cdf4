"""Boards that are host names of their own on this machine (unshare), and a remote shell that reaches them."""
import json
import os
import pathlib
import shlex
import signal
import subprocess

from program import jupiter

# HOST WORDS, with that host name. A file `dead-HOST`: it does not answer.
RSH = """#!/bin/sh
[ ! -e "{folder}/dead-$1" ] || exit 255
export BOARD="$1" BOARDS="{folder}"
shift
exec {unshare} sh -c 'hostname "$BOARD"; exec sh -c "$1"' sh "$*"
"""
UNSHARE = ["unshare", "--uts"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--uts"]
HOSTS = ["board1", "board2", "board3"]
NEEDED = "needs unshare with host names (root, or user namespaces)"


def can_rename():
    try:
        return subprocess.run([*UNSHARE, "hostname", "other"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def profile(model, path, context):
    """Of three ranks here. Layers cost much in it and it knows no gathers: every plan is a pipeline of all boards."""
    result = jupiter("profile", "-m", model, "-o", path, "--shared-host", "--context", context, "-t", "1", ranks=3)
    assert result.returncode == 0, result.stderr
    content = json.loads(path.read_text())
    for board in content["boards"]:
        board["layer"]["base"] = {"rows": [1, 512], "seconds": [1, 512]}
    content["gathers"] = []
    path.write_text(json.dumps(content))
    return content


def name_boards(content, path):
    """The same as if the ranks had been on HOSTS."""
    for board, host in zip(content["boards"], HOSTS):
        board.update(host=host, slot=0)
    path.write_text(json.dumps(content))


class LocalBoards:
    """The state of boards; its files are in the folder."""

    def __init__(self, folder):
        self.folder = folder
        self.rsh = folder / "rsh"
        self.rsh.write_text(RSH.format(folder=folder, unshare=" ".join(UNSHARE)))
        self.rsh.chmod(0o755)
        self.command = shlex.quote(str(self.rsh))

    def processes(self, *hosts):
        """What the remote shell started there."""
        wanted = {f"BOARD={host}".encode() for host in hosts}
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = set((entry / "environ").read_bytes().split(b"\0"))
            except OSError:
                continue
            if wanted & words and f"BOARDS={self.folder}".encode() in words:
                found.append(int(entry.name))
        return found

    def send(self, number, *hosts):
        for pid in self.processes(*hosts):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def die(self, *hosts, number=signal.SIGKILL):
        for host in hosts:
            (self.folder / f"dead-{host}").touch()
        self.send(number, *hosts)

    def come_back(self, *hosts):
        for host in hosts:
            (self.folder / f"dead-{host}").unlink()
