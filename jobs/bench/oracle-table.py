#!/usr/bin/env python3
"""Schedules of speculation at known hit rates: jobs/bench/oracle-table.py -m MODEL [options] -- LAUNCHER...

A greedy answer is recorded on one rank; then the drafter that replays it (`--draft oracle:RATE:RUN.json`) is right with
probability RATE at each token. Plain decoding, lap and continuous mode take turns on the boards that LAUNCHER starts
(for example `jobs/emulate/emulate mpirun`). Medians of tokens/s, and what they are of plain decoding. Every answer must
have the recorded one's bits (exit 1).
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import call_jupiter


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-n", "--tokens", type=int, default=128)
    p.add_argument("-r", "--rounds", type=int, default=5)
    p.add_argument("--rates", type=float, nargs="+", default=[0.8, 0.9])
    p.add_argument("launcher", nargs="+", help="what starts jupiter on the boards")
    return p.parse_args()


def run(options, launcher, report, *extra):
    call_jupiter("oracle-table", launcher, "run", "-m", options.model, "--raw", "-p", "hello there, this is a prompt", "-n",
                 options.tokens, "--ignore-eos", "-c", 1024, "--no-verify", "--json", report, *extra)
    return json.loads(pathlib.Path(report).read_text(encoding="utf-8"))


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        recorded, report = pathlib.Path(folder) / "recorded.json", pathlib.Path(folder) / "run.json"
        wanted = run(options, [], recorded, "--decode", "plain")["logits_hash"]
        variants = {"plain": ["--decode", "plain"]}
        for rate in options.rates:
            for mode in ("lap", "continuous"):
                variants[f"{mode}, {rate}"] = ["--spec-mode", mode, "--draft", f"oracle:{rate}:{recorded}"]
        speeds, different = {name: [] for name in variants}, 0
        for number in range(options.rounds):
            for name, extra in variants.items():
                j = run(options, options.launcher, report, "-t", 1, *extra)
                different += j["logits_hash"] != wanted
                speeds[name].append(j["decode_tokens_per_s"])
            print(f"oracle-table: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    plain = statistics.median(speeds["plain"])
    print("| schedule, hit rate | tokens/s | least | most | of plain |\n|---|---|---|---|---|")
    for name, values in speeds.items():
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} | "
              f"{statistics.median(values) / plain:.2f} |")
    print(f"answers with other bits: {different}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
