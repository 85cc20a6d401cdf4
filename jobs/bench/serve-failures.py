#!/usr/bin/env python3
"""Streams answers of a server on emulated boards while things break: serve-failures.py -m DIR [options], as root

  --boards FILE    default jobs/emulate/boards/a.boards
  --answers N      default 100: each with one failure at a random token
  --tokens N       of an answer (default 120)
  --seed N         of the failures (default 1)
  -o FILE          every failure as a line of JSON

A failure is one of: SIGKILL of a rank, SIGKILL of mpirun, a board's link cut, all processes of a board stopped. Links
and boards come back after 8 seconds. Prints, for each kind, how many answers had the bytes of an undisturbed one, and
the longest silence in an answer: median and worst. Exit 1: an answer differed.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path("/var/lib/jupiter-emulate/jup/cluster.json")
QUESTIONS = ["Write a story about a small boat on a wide river.", "How do plants grow in the desert?",
             "Explain how a bicycle works.", "Describe a market in the morning.", "Why is the sea salty?"]
BACK_S = 8


class Server:
    def __init__(self, model, boards):
        command = [ROOT / "jobs" / "jupiter-serve", "-m", model, "--emulate", boards, "-c", "1024", "--port", "0"]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                                        stderr=sys.stderr)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("serve-failures: the server did not start")
        self.port = int(line.rsplit(":", 1)[1])

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def wait_until_whole(self, limit_s=120):
        """All boards alive, and the model loaded."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            slots = self.get("/slots")[1]
            if slots["loaded"] and all(b["state"] in ("used", "idle") for b in slots["boards"]):
                return slots
            time.sleep(0.1)
        raise SystemExit(f"serve-failures: the boards did not come back: {self.get('/slots')[1]}")

    def stream(self, question, tokens, at=0, action=None):
        """(text, longest silence in seconds); after `at` events the action is called."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": tokens, "ignore_eos": True,
                "stream": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        text, events, last, silence = "", 0, None, 0.0
        for line in connection.getresponse():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return json.dumps(event), silence
            piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if not piece:
                continue
            now = time.monotonic()
            silence, last = max(silence, now - last if last else 0), now
            text, events = text + piece, events + 1
            if events == at:
                threading.Thread(target=action).start()
        return text, silence


def processes(board):
    group = next(b["groups"][0] for b in json.loads(STATE.read_text())["boards"] if b["name"] == board)
    return [int(pid) for pid in (pathlib.Path(group) / "cgroup.procs").read_text().split()]


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def ranks_on(board):
    found = []
    for pid in processes(board):
        try:
            if b"\0serve\0--socket" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


def mpirun_of(server):
    """Its descendants that are mpirun."""
    found, wanted = [], [server.process.pid]
    while wanted:
        for pid in subprocess.run(["pgrep", "-P", str(wanted.pop())], stdout=subprocess.PIPE, text=True,
                                  check=False).stdout.split():
            wanted.append(int(pid))
            if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() in ("mpirun", "orterun"):
                found.append(int(pid))
    return found


def failures(server, used, chance):
    """Kind, board, what breaks, what mends it."""
    names = [b["name"] for b in json.loads(STATE.read_text())["boards"]]
    board = chance.choice(used)
    link = f"jup{names.index(board) + 1}"
    set_link = lambda how: subprocess.run(["ip", "link", "set", link, how], check=False)
    return chance.choice([
        ("rank", board, lambda: send(ranks_on(board), signal.SIGKILL), None),
        ("mpirun", "", lambda: send(mpirun_of(server), signal.SIGKILL), None),
        ("link", board, lambda: set_link("down"), lambda: set_link("up")),
        ("frozen", board, lambda: send(processes(board), signal.SIGSTOP),
         lambda: send(processes(board), signal.SIGCONT)),
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--boards", default=ROOT / "jobs" / "emulate" / "boards" / "a.boards")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    server = Server(options.model, options.boards)
    results = []
    try:
        server.wait_until_whole()
        expected = {q: server.stream(q, options.tokens)[0] for q in QUESTIONS}
        while len(results) < options.answers:
            used = [b["host"] for b in server.wait_until_whole()["boards"] if b["state"] == "used"]
            question = chance.choice(QUESTIONS)
            kind, board, breaks, mends = failures(server, used, chance)
            timer = threading.Timer(BACK_S, mends or (lambda: None))
            at = chance.randrange(2, options.tokens // 4)
            text, silence = server.stream(question, options.tokens, at, lambda: (breaks(), timer.start()))
            if timer.ident is None:
                continue  # the answer came in fewer events: nothing broke
            timer.join()
            results.append({"kind": kind, "board": board, "at": at, "same": text == expected[question],
                            "silence_s": round(silence, 3)})
            print(f"{len(results):4} {json.dumps(results[-1])}", flush=True)
    finally:
        server.process.terminate()
        server.process.wait()
    if options.output:
        pathlib.Path(options.output).write_text("".join(json.dumps(r) + "\n" for r in results))
    print(f"{'failure':<10}{'same':>12}{'median s':>10}{'worst s':>10}")
    for kind in ("rank", "mpirun", "link", "frozen"):
        of_kind = [r for r in results if r["kind"] == kind]
        if of_kind:
            silences = [r["silence_s"] for r in of_kind]
            print(f"{kind:<10}{sum(r['same'] for r in of_kind):>5} of {len(of_kind):<3}"
                  f"{statistics.median(silences):>10.2f}{max(silences):>10.2f}")
    return 0 if all(r["same"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
