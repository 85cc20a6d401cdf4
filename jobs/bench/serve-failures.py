#!/usr/bin/env python3
"""Streams answers of a server on emulated boards while things break: serve-failures.py -m DIR [options], as root

  --boards FILE    default jobs/emulate/boards/a.boards
  --answers N      default 100: each with one failure at a random character
  --tokens N       of an answer (default 120)
  --seed N         of the failures (default 1)
  -o FILE          every failure as a line of JSON, added to what the file holds; the table is of all of them

A failure is one of: SIGKILL of a rank, SIGKILL of mpirun, a board's link cut, all processes of a board stopped. Links
and boards come back after 8 seconds. Prints, for each kind, how many answers had the bytes of an undisturbed one, the
longest silence in an answer (median and worst), and how much longer the worst was than the first token of an
undisturbed answer takes, since the prompt is computed again. Exit 1: an answer differed.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading

from serve_client import ROOT, TEXT, Server

NAME = os.environ.get("EMULATE_NAME", "jup")
STATE = pathlib.Path("/var/lib/jupiter-emulate") / NAME / "cluster.json"
QUESTIONS = ["Write a story about a small boat on a wide river.", "How do plants grow in the desert?",
             "Explain how a bicycle works.", "Describe a market in the morning.", "Why is the sea salty?"]
KINDS = ("rank", "mpirun", "link", "frozen")
BACK_S = 8


def body_of(question, tokens):
    return {"prompt": question, "max_tokens": tokens, "ignore_eos": True, "stream": True}


def is_whole(slots):
    """All boards alive, and the model loaded."""
    return slots["loaded"] and all(b["state"] in ("used", "idle") for b in slots["boards"])


def stream_and(server, question, tokens, at=0, action=None):
    """The answer; as soon as it has `at` characters the action is called."""
    begun = []

    def watch(answer):
        if action and not begun and len(answer.text) >= at:
            begun.append(threading.Thread(target=action))
            begun[0].start()
        return True

    return server.client().ask(TEXT, body_of(question, tokens), watch)


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


def failures(server, used, chance):
    """Kind, board, what breaks, what mends it."""
    names = [b["name"] for b in json.loads(STATE.read_text())["boards"]]
    board = chance.choice(used)
    link = f"{NAME}{names.index(board) + 1}"
    set_link = lambda how: subprocess.run(["ip", "link", "set", link, how], check=False)
    mpirun = lambda: [pid for name, pid in server.processes() if name in ("mpirun", "orterun")]
    return chance.choice([
        ("rank", board, lambda: send(ranks_on(board), signal.SIGKILL), None),
        ("mpirun", "", lambda: send(mpirun(), signal.SIGKILL), None),
        ("link", board, lambda: set_link("down"), lambda: set_link("up")),
        ("frozen", board, lambda: send(processes(board), signal.SIGSTOP),
         lambda: send(processes(board), signal.SIGCONT)),
    ])


class Campaign:
    def __init__(self, options, server):
        self.options, self.server, self.chance = options, server, random.Random(options.seed)
        server.wait_until(is_whole)
        self.undisturbed = {q: stream_and(server, q, options.tokens) for q in QUESTIONS}
        for question, answer in self.undisturbed.items():
            if answer.error:
                sys.exit(f"serve-failures: {question}: {answer.error}")

    def one(self):
        """A row, or nothing where the answer had ended before the ranks did."""
        slots = self.server.wait_until(is_whole)
        used = [b["host"] for b in slots["boards"] if b["state"] == "used"]
        question = self.chance.choice(QUESTIONS)
        whole = self.undisturbed[question]
        at = self.chance.randrange(1, max(2, len(whole.text) // 2))
        kind, board, breaks, mends = failures(self.server, used, self.chance)
        timer = threading.Timer(BACK_S, mends) if mends else None
        answer = stream_and(self.server, question, self.options.tokens, at,
                            lambda: (breaks(), timer.start() if timer else None))
        began_again = self.server.slots()["starts"] > slots["starts"]
        if timer is not None:
            timer.join()
        self.server.wait_until(lambda now: now["starts"] > slots["starts"])
        if not began_again:
            return None
        return {"kind": kind, "board": board, "at": at, "same": answer.text == whole.text and not answer.error,
                "error": answer.error, "silence_s": round(answer.silence_s, 3), "first_s": round(whole.first_s, 3)}


def table(rows):
    print("| failure | same bytes | silence s, median | worst | worst beyond the first token's time |\n"
          "|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        of_kind = [r for r in rows if kind in (r["kind"], "all")]
        if of_kind:
            silences = [r["silence_s"] for r in of_kind]
            beyond = max(r["silence_s"] - r["first_s"] for r in of_kind)
            same = sum(r["same"] for r in of_kind)
            print(f"| {kind} | {same} of {len(of_kind)} | {statistics.median(silences):.2f} | {max(silences):.2f} | "
                  f"{beyond:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--boards", default=ROOT / "jobs" / "emulate" / "boards" / "a.boards")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    made = 0
    with Server(options.model, ("--emulate", options.boards, "-c", 1024)) as server:
        campaign = Campaign(options, server)
        with open(options.output, "a", encoding="utf-8") as output:
            for _ in range(2 * options.answers):
                row = campaign.one()
                if row is not None:
                    made += 1
                    print(f"{made:4} {json.dumps(row)}", flush=True)
                    output.write(json.dumps(row) + "\n")
                    output.flush()
                if made == options.answers:
                    break
    with open(options.output, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    table(rows)
    return 0 if made == options.answers and all(r["same"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
