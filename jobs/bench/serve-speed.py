#!/usr/bin/env python3
"""Speed of a server on emulated boards beside `batch` and `run`: serve-speed.py -m DIR [options], as root

  --boards FILE     default jobs/emulate/boards/a.boards
  --rounds N        default 3: server and program in turn
  --clients N       default 16, at once
  --tokens N        of an answer (default 128)
  --prompt N        tokens of the conversation that is in the cache, or not (default 1000)
  -c N              context (default 2048)
  --only PART       clients, lone or cached; may stand there several times (default: all)

All have the same plan, and the program's options are the server's. `clients`: tokens/s of all answers, from the first
request to the last byte, against `jupiter batch` of the same requests. A server has answered once before, so that the
template's beginning is in its cache; a batch computes it first. `lone`: tokens/s behind the first one, against
`jupiter run`. `cached`: seconds to the first byte of the next turn of a conversation, against those of a new one as
long. A ratio is the median of the rounds' ratios. Every answer must have the bytes of the program's. Exit 1: one has
not.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import sys
import tempfile
import threading
import time

from serve_client import CHAT, Server, batch_answers

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))
from boards import EmulatedBoards, make_plan
from jupiter_program import ROOT, call_jupiter

SUBJECTS = ("boats", "bridges", "clouds", "deserts", "engines", "forests", "glass", "horses", "islands", "jungles",
            "kites", "lamps", "mountains", "noise", "oceans", "paper")
MOST_CLIENTS = 16
LONE = 3  # answers of one client, and runs, in a round
PARALLEL = 64  # as jupiter-serve plans


def chat(text, tokens):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}


class Bench:
    def __init__(self, options, boards, folder):
        self.options, self.boards, self.folder = options, boards, folder
        wanted = f"--parallel {PARALLEL} -c {options.context}"
        self.plan, hosts, ranks = make_plan(options.model, boards.profile, [], wanted, folder)
        # The launcher of the server's ranks, by hand.
        self.launcher = ["mpirun", "-n", len(ranks), "--hostfile", hosts, "--map-by", "seq", "--bind-to", "none",
                         "--oversubscribe", *shlex.split(boards.mpirun), "--mca", "plm_rsh_agent", boards.rsh]
        self.wrong = 0
        print(f"plan: {len(ranks)} ranks on {', '.join(dict.fromkeys(ranks))}", file=sys.stderr, flush=True)

    def server(self):
        server = Server(self.options.model, ("-c", self.options.context, "--cluster", self.boards.profile, "--rsh",
                                             self.boards.rsh, "--mpirun", self.boards.mpirun, "--address",
                                             self.boards.address))
        server.wait_until_loaded()
        return server

    def same(self, answer, text):
        if answer.error or answer.text != text:
            self.wrong += 1
            print(f"OTHER BYTES: expected {text!r}, found {answer.text!r} {answer.error}", file=sys.stderr, flush=True)

    def clients(self):
        """Tokens/s of many answers at once: (server, batch)."""
        bodies = {s: chat(f"Write a story about {s}.", self.options.tokens) for s in SUBJECTS[:self.options.clients]}
        answers = {}
        with self.server() as server:
            server.client().ask(CHAT, chat("Hello.", 8))
            def ask(name):
                answers[name] = server.client().ask(CHAT, bodies[name])
            threads = [threading.Thread(target=ask, args=(name,)) for name in bodies]
            start = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = sum(a.tokens for a in answers.values()) / (time.monotonic() - start)
        lines, said = batch_answers("serve-speed", self.options.model, bodies, self.folder, self.launcher,
                                    ("--plan", self.plan, "-c", self.options.context, "--ignore-eos", "--stats"))
        for name, answer in answers.items():
            self.same(answer, lines[name]["text"])
        return rate, float(re.search(r"([\d.]+) tokens/s", said)[1])

    def lone(self):
        """Tokens/s behind the first one, of one answer at a time: (server, run), medians of a few."""
        question = "Explain how a bicycle works."
        with self.server() as server:
            answers = [server.client().ask(CHAT, chat(question, self.options.tokens)) for _ in range(1 + LONE)][1:]
        runs = [self.run(question) for _ in range(LONE)]
        for answer in answers:
            self.same(answer, runs[0]["text"])
        rates = [(answer.tokens - 1) / (answer.total_s - answer.first_s) for answer in answers]
        return statistics.median(rates), statistics.median(run["decode_tokens_per_s"] for run in runs)

    def run(self, question):
        target = self.folder / "run.json"
        call_jupiter("serve-speed", self.launcher, "run", "-m", self.options.model, "--plan", self.plan, "-c",
                     self.options.context, "-p", question, "-n", self.options.tokens, "--ignore-eos", "--json", target)
        return json.loads(target.read_text())

    def cached(self, server, number):
        """Seconds to the first byte: (of a conversation's next turn, of a new conversation)."""
        client = server.client()
        words = " ".join(f"{SUBJECTS[(number + i * i) % MOST_CLIENTS]} {i}" for i in range(self.options.prompt))
        body = chat(f"Number {number}. {words}", 8)
        tokens = self.tokens_of(client, body)
        while tokens > self.options.prompt:  # about two tokens a word, and the numbers
            words = words[:len(words) * self.options.prompt // tokens]
            body["messages"][0]["content"] = f"Number {number}. {words}"
            tokens = self.tokens_of(client, body)
        cold = client.ask(CHAT, body)
        body["messages"] += [{"role": "assistant", "content": cold.text}, {"role": "user", "content": "And then?"}]
        return client.ask(CHAT, body).first_s, cold.first_s

    @staticmethod
    def tokens_of(client, body):
        prompt = json.loads(client.read("POST", "/apply-template", {"messages": body["messages"]})[1])["prompt"]
        return len(json.loads(client.read("POST", "/tokenize", {"content": prompt})[1])["tokens"])


def row(name, unit, pairs, aim):
    """Of the server and of what it is compared with."""
    mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
    ratio = statistics.median(m / o for m, o in pairs)  # the machine's speed may drift from round to round
    shown = lambda values: ", ".join(f"{v:.3g}" for v in values)
    print(f"| {name} | {unit} | {shown(mine)} | {shown(other)} | {statistics.median(mine):.3g} | "
          f"{statistics.median(other):.3g} | {ratio:.3f} | {aim} |", flush=True)


def measure(bench, options):
    print("| what | unit | server | beside it | median, server | median, beside it | ratio | aim |\n"
          "|---|---|---|---|---|---|---|---|", flush=True)
    if "clients" in options.only:
        row(f"{options.clients} clients, batch", "tokens/s", [bench.clients() for _ in range(options.rounds)], ">= 0.9")
    if "lone" in options.only:
        row("one client, run", "tokens/s", [bench.lone() for _ in range(options.rounds)], ">= 0.97")
    if "cached" in options.only:
        with bench.server() as server:
            pairs = [bench.cached(server, i) for i in range(max(options.rounds, 5))]
        row(f"{options.prompt} tokens cached, new", "s", pairs, "<= 0.15")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--boards", default=ROOT / "jobs" / "emulate" / "boards" / "a.boards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=MOST_CLIENTS, choices=range(1, MOST_CLIENTS + 1))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("-c", "--context", type=int, default=2048)
    parser.add_argument("--only", action="append", choices=("clients", "lone", "cached"))
    options = parser.parse_args()
    options.only = options.only or ("clients", "lone", "cached")
    with tempfile.TemporaryDirectory(prefix="jupiter-serve-speed-") as folder:
        boards = EmulatedBoards(str(options.boards), options.model, pathlib.Path(folder))
        try:
            bench = Bench(options, boards, pathlib.Path(folder))
            measure(bench, options)
        finally:
            boards.end()
    print(f"load of the machine in the last minute: {os.getloadavg()[0]:.1f}; answers with other bytes: {bench.wrong}")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
