#!/usr/bin/env python3
"""Hours of mixed requests for a server on this machine: serve-soak.py -m DIR -o FILE [options]

  -n RANKS, --clients N, --minutes N    3 ranks, 6 clients at a time, 120 minutes
  -c N, --cache-tokens N                context 2048 and a KV cache of 6144 tokens, which the clients overfill
  --seed N                              of the requests (default 1)
  --warm-up N                           minutes before memory is compared (default: a sixth)
  --pause-file FILE                     while it exists no new request is sent; such time does not count
  --recheck N                           first answers of the server that one rank computes at the end (default 100)
  --most-mib-per-hour X                 growth of a process that is an error, where it is above 4 MiB in all (default 4)
  -o FILE                               rows of JSON, written as it goes
  --summary FILE                        only prints the tables of such a file, of a soak that was killed, too

Short and long answers, streamed or not, sampled, with JSON schemas and other fields; long prompts, conversations that
grow, bad requests, clients that leave in the middle. A set of answers is computed on one rank before; others must be
what they were the first time. Every 30 seconds: memory and descriptors of every process, latencies, the server's own
counters. Exit 1: an answer was wrong or missing, ranks were started again, memory or descriptors grew.
"""
import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import sys
import threading
import time

from serve_client import Server
from serve_load import BAD, Load, Truth, next_turn, turn

SAMPLE_S = 30
FAULTS_SHOWN = 5
SLACK_MIB = 4
ACTIONS = {"pool": 40, "fresh": 14, "again": 10, "conversation": 6, "leave": 12, "vanish": 6, "bad": 12}
COUNTS = ("answers", "compared", "new", "left", "refused", "wrong", "failed")


class Soak:
    """What clients do, and what came of it."""

    def __init__(self, options, server, load, truth, rows):
        self.options, self.server, self.load, self.truth, self.rows = options, server, load, truth, rows
        self.counts, self.latencies = collections.Counter(), collections.defaultdict(list)
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.paused_s = 0.0

    def paused(self):
        return bool(self.options.pause_file) and os.path.exists(self.options.pause_file)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def fault(self, what, request, text):
        self.count(what)
        self.rows.write({"row": what, "request": request, "text": text[:4000]})

    def client(self, seed):
        """One client, until the soak ends."""
        rng, client = random.Random(seed), self.server.client()
        while not self.ended.is_set():
            if self.paused():
                self.ended.wait(0.2)
                continue
            action = rng.choices(list(ACTIONS), ACTIONS.values())[0]
            try:
                getattr(self, action)(rng, client)
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.fault("failed", action, f"{type(e).__name__}: {e}")
                client.close()
            if rng.random() < 0.5:
                client.close()
        client.close()

    def ask(self, client, request, stream):
        """The answer's text, compared with the truth; nothing where it is missing."""
        answer = client.ask(request.path, request.body(**({"stream": True} if stream else {})))
        if answer.status != 200 or answer.error or not answer.finish:
            return self.fault("failed", request.text, f"status {answer.status}, '{answer.finish}': {answer.error}")
        fault, compared = self.truth.check(request, answer)
        self.count("answers")
        self.count("compared" if compared else "new")
        if fault:
            return self.fault("wrong", request.text, fault)
        kind = request.kind + (", streamed" if stream else "")
        with self.lock:
            self.latencies[kind].append((round(answer.first_s, 4), round(answer.total_s, 4)))
        return answer.text

    def pool(self, rng, client):
        self.ask(client, rng.choice(self.load.pool), rng.random() < 0.6)

    def fresh(self, rng, client):
        request = self.load.fresh(rng)
        self.ask(client, request, request.truth and rng.random() < 0.6)

    def again(self, rng, client):
        request = self.load.again(rng)
        self.ask(client, request, request.truth and rng.random() < 0.6)

    def conversation(self, rng, client):
        messages = [{"role": "user", "content": self.load.opening(rng)}]
        for number in range(rng.randint(2, Load.TURNS)):
            while self.paused() and not self.ended.is_set():
                self.ended.wait(0.2)
            text = self.ask(client, turn(messages), rng.random() < 0.8)
            if text is None or self.ended.is_set():
                return
            messages = next_turn(messages, text, number)

    def leave(self, rng, client):
        """In the middle of a stream; what came until then must be right."""
        request, most = rng.choice(self.load.pool), rng.randint(1, 30)
        answer = client.ask(request.path, request.body(stream=True), lambda a: a.events < most)
        fault = answer.error or self.truth.check_beginning(request, answer)
        if fault:
            return self.fault("wrong", request.text, fault)
        return self.count("left")

    def vanish(self, rng, client):
        client.leave(*self.path_and_body(rng), rng.choice([0, 0.01, 0.1, 0.5]))
        self.count("left")

    def path_and_body(self, rng):
        request = rng.choice(self.load.pool)
        return request.path, request.body(stream=rng.random() < 0.5)

    def bad(self, rng, client):
        method, path, body, kind, status = rng.choice(BAD)
        got, text = client.read(method, path, body, kind)
        if got != status or not json.loads(text)["error"]["message"]:
            asked = f"{method} {path} {str(body)[:200]}"
            return self.fault("wrong", asked, f"expected {status}, found {got}: {text!r}")
        return self.count("refused")

    def take_latencies(self):
        with self.lock:
            taken, self.latencies = dict(self.latencies), collections.defaultdict(list)
        return taken


class Rows:
    """The file of rows: each is on the disk before the next one comes."""

    def __init__(self, path):
        self.file, self.lock = open(path, "w", encoding="utf-8"), threading.Lock()

    def write(self, row):
        with self.lock:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


def measured(server):
    """RSS and PSS in KiB and open descriptors of every process of the server."""
    found = {}
    for name, pid in server.processes():
        folder = pathlib.Path(f"/proc/{pid}")
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("Rss:", "Pss:"))}
            found[name] = {"pid": pid, "rss_kib": sizes["Rss"], "pss_kib": sizes["Pss"],
                           "descriptors": len(list((folder / "fd").iterdir()))}
        except (OSError, KeyError):
            continue  # it has ended, which the counter of starts tells
    return found


def sample(soak, start):
    wall_s = time.monotonic() - start
    soak.rows.write({"row": "sample", "wall_s": round(wall_s, 1), "load_s": round(wall_s - soak.paused_s, 1),
                     "paused_s": round(soak.paused_s, 1), "system_load": os.getloadavg()[0],
                     "processes": measured(soak.server), "latencies": soak.take_latencies(),
                     "counts": dict(soak.counts), "metrics": soak.server.metrics()})


def watch(soak):
    """Samples until the minutes of load are over, somebody interrupts, or the server has ended."""
    start = before = time.monotonic()
    sample(soak, start)
    next_sample, end_s = SAMPLE_S, soak.options.minutes * 60
    most_s = 4 * end_s + 3600  # pauses included
    while before - start - soak.paused_s < end_s and before - start < most_s and not soak.ended.is_set():
        time.sleep(0.25)
        now = time.monotonic()
        soak.paused_s += now - before if soak.paused() else 0
        before = now
        if soak.server.process.poll() is not None:
            soak.fault("failed", "", f"the server ended: {soak.server.process.returncode}")
            return
        if now - start > next_sample:
            sample(soak, start)
            next_sample = now - start + SAMPLE_S
    sample(soak, start)


def soak_server(options):
    rng = random.Random(options.seed)
    load, truth = Load(rng), Truth(options.model, options.context)
    rows = Rows(options.output)
    warm_up_s = 60 * (options.minutes / 6 if options.warm_up is None else options.warm_up)
    rows.write({"row": "start", **vars(options), "warm_up_s": warm_up_s})
    print("serve-soak: one rank computes the answers", file=sys.stderr, flush=True)
    truth.learn(load.pool)
    truth.learn_conversations(load.openings)
    own = ("-n", options.ranks, "-c", options.context)
    with Server(options.model, own, ("--cache-tokens", options.cache_tokens)) as server:
        server.wait_until_loaded()
        soak = Soak(options, server, load, truth, rows)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: soak.ended.set())
        clients = [threading.Thread(target=soak.client, args=(options.seed * 1000 + i,), daemon=True)
                   for i in range(options.clients)]
        for client in clients:
            client.start()
        print(f"serve-soak: {options.clients} clients at port {server.port}", file=sys.stderr, flush=True)
        watch(soak)
        soak.ended.set()
        for client in clients:
            client.join(timeout=300)
        end(soak, sum(client.is_alive() for client in clients))


def end(soak, hanging):
    """The last rows: nothing may be open any more, and every answer that began must have ended somehow."""
    last = {"row": "end", "counts": dict(soak.counts), "hanging": hanging, "metrics": {}, "rechecked": 0, "differ": []}
    if soak.server.process.poll() is None:
        limit = time.monotonic() + 30
        while (metrics := soak.server.metrics())["jupiter_requests_open"] and time.monotonic() < limit:
            time.sleep(0.1)
        last["metrics"] = metrics
    soak.rows.write(last)
    if soak.options.recheck:
        last["rechecked"], last["differ"] = soak.truth.recheck(soak.load.new[-soak.options.recheck:])
        soak.rows.write(last)  # the last row of its kind counts


# --------------------------------------------------------------------------------------------------------- summary

def slope(points):
    """Least squares: units of y for each one of x."""
    if len(points) < 2:
        return 0.0
    x_mean, y_mean = (statistics.fmean(p[i] for p in points) for i in (0, 1))
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


class Process:
    """The samples of one process after the warm-up."""

    def __init__(self, samples, name):
        mine = [(s["load_s"] / 3600, s["processes"][name]) for s in samples if name in s["processes"]]
        self.memory = [(hours, p["pss_kib"] / 1024) for hours, p in mine]
        self.rss = [p["rss_kib"] / 1024 for _, p in mine]
        third = max(1, len(mine) // 3)
        descriptors = [p["descriptors"] for _, p in mine]
        self.descriptors = max(descriptors[:third]), max(descriptors[-third:])
        self.parts = [self.level(0), self.level(len(mine) // 2), self.level(len(mine) - 1)]
        self.slope = slope(self.memory)

    def level(self, at):
        """The median of five samples, which no answer in between disturbs."""
        at = min(max(at, 2), max(len(self.memory) - 3, 0))
        return statistics.median(m for _, m in self.memory[max(at - 2, 0):at + 3])

    def problems(self, name, settings):
        if self.slope > settings["most_mib_per_hour"] and self.parts[2] - self.parts[0] > SLACK_MIB:
            yield f"{name}: memory grew by {self.slope:.1f} MiB an hour"
        # In one sample no client may have a connection, in another all of them.
        if self.descriptors[1] > self.descriptors[0] + settings["clients"] + 2:
            yield f"{name}: from {self.descriptors[0]} to {self.descriptors[1]} descriptors"


def process_table(samples, names, settings, problems):
    print("| process | PSS MiB after warm-up | middle | end | MiB an hour | RSS MiB at most | most descriptors, first "
          "third | last third |\n|---|---|---|---|---|---|---|---|")
    for name in sorted(names):
        p = Process(samples, name)
        problems += p.problems(name, settings)
        levels = " | ".join(f"{part:.1f}" for part in p.parts)
        print(f"| {name} | {levels} | {p.slope:+.2f} | {max(p.rss):.1f} | {p.descriptors[0]} | {p.descriptors[1]} |")


def latency_table(samples):
    by_kind = collections.defaultdict(list)
    for s in samples:
        for kind, pairs in s["latencies"].items():
            by_kind[kind] += pairs
    print("\n| answers | number | first byte s, median | 95 % | whole s, median | 95 % | worst |\n"
          "|---|---|---|---|---|---|---|")
    for kind, pairs in sorted(by_kind.items()):
        first, whole = sorted(p[0] for p in pairs), sorted(p[1] for p in pairs)
        columns = [of[min(int(len(of) * part), len(of) - 1)] for of in (first, whole) for part in (0.5, 0.95)]
        print(f"| {kind} | {len(pairs)} | {' | '.join(f'{s:.2f}' for s in (*columns, whole[-1]))} |")


def count_problems(rows, last, end_row):
    counts = (end_row or last)["counts"]
    problems = [f"{counts[what]} {what}" for what in ("wrong", "failed") if counts.get(what)]
    metrics = last["metrics"]
    if metrics["jupiter_rank_starts_total"] != 1:
        problems.append(f"the ranks came {metrics['jupiter_rank_starts_total']:.0f} times")
    if not counts.get("answers"):
        problems.append("no answer came")
    if end_row is None:
        return [*problems, "it did not come to its end"]
    final = end_row["metrics"]
    problems += [f"one rank gave another answer: {d}" for d in end_row["differ"]]
    if end_row["hanging"]:
        problems.append(f"{end_row['hanging']} clients still waited at the end")
    if final and final["jupiter_requests_open"]:
        problems.append(f"{final['jupiter_requests_open']:.0f} answers open that nobody waits for")
    if final and final["jupiter_requests_failed_total"]:
        problems.append(f"{final['jupiter_requests_failed_total']:.0f} answers that could not be computed")
    return problems


def summarise(path):
    """Prints the tables; the exit code."""
    with open(path, encoding="utf-8") as f:
        lines = f.read().splitlines()
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be cut off
    settings, samples = rows[0], [r for r in rows if r["row"] == "sample"]
    if len(samples) < 2:
        sys.exit(f"{path}: expected two samples at least, found {len(samples)}")
    last, end_row = samples[-1], ([None] + [r for r in rows if r["row"] == "end"])[-1]
    warm = [s for s in samples if s["load_s"] >= settings["warm_up_s"]]
    problems = count_problems(rows, last, end_row)
    counts = (end_row or last)["counts"]
    shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in COUNTS)
    rechecked = f"; {end_row['rechecked']} new ones computed again on one rank" if end_row else ""
    print(f"{last['load_s'] / 60:.1f} minutes of load, {last['paused_s'] / 60:.1f} of pauses; {shown}{rechecked}\n")
    process_table(warm or samples, last["processes"], settings, problems)
    latency_table(samples)
    faults = [f"{r['row']}: {r['request'][:300]}: {r['text'][:600]}" for r in rows if r["row"] in ("wrong", "failed")]
    for problem in [*problems, *faults[:FAULTS_SHOWN]]:
        print(f"\nWRONG: {problem}")
    return 1 if problems else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("-o", "--output")
    parser.add_argument("-n", "--ranks", type=int, default=3)
    parser.add_argument("-c", "--context", type=int, default=2048)
    parser.add_argument("--cache-tokens", type=int, default=6144)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--warm-up", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-file")
    parser.add_argument("--recheck", type=int, default=100)
    parser.add_argument("--most-mib-per-hour", type=float, default=4)
    parser.add_argument("--summary")
    options = parser.parse_args()
    if options.summary:
        return summarise(options.summary)
    if not options.model or not options.output:
        parser.error("expected -m DIR and -o FILE, or --summary FILE")
    soak_server(options)
    return summarise(options.output)


if __name__ == "__main__":
    sys.exit(main())
