#!/usr/bin/env python3
"""Latency of outline mode by question: jobs/outline-table.py -m MODEL [options] [-- LAUNCHER...]

For each question: the answer with an outline (with and without speculation), then the plain and the speculative answer of
the same number of tokens, and which of them the router would take. LAUNCHER starts jupiter on the boards, for example
`jobs/emulate mpirun`; none: one rank. Prints medians by number of points, and a row for each question with --rows.
"""
import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--questions", default=ROOT / "tests/data/router_vicuna.csv", help="CSV with a column question")
    p.add_argument("--every", type=int, default=1, help="only every Nth question")
    p.add_argument("--point-tokens", type=int, default=64)
    p.add_argument("-t", "--threads", type=int, default=1)
    p.add_argument("--rows", help="write a row for each question to this CSV")
    p.add_argument("launcher", nargs="*", help="what starts jupiter on the boards")
    return p.parse_args()


def run(options, question, *extra):
    """The JSON of one answer."""
    jupiter = os.environ.get("JUPITER", ROOT / "build/jupiter")
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "answer.json"
        command = [*options.launcher, jupiter, "run", "-m", options.model, "-p", question, "-t", options.threads,
                   "--no-verify", "--point-tokens", options.point_tokens, "--json", target, *extra]
        result = subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                check=False)
        if result.returncode != 0:
            sys.exit(f"outline-table: {' '.join(map(str, command))}: exit {result.returncode}: {result.stderr[-500:]}")
        return json.loads(target.read_text())


def measure(options, question):
    outlined = run(options, question, "--outline", "always", "--decode", "plain")
    both = run(options, question, "--outline", "always")
    router = run(options, question, "--outline", "auto", "-n", "1")["outline"]["suits"] > 0.5
    tokens = max(len(outlined["generated_token_ids"]), 2)
    same = ("-n", tokens, "--ignore-eos")
    plain, spec = run(options, question, *same, "--decode", "plain"), run(options, question, *same)
    return {"question": question, "points": len(outlined["outline"]["points"]), "tokens": tokens,
            "plain_s": plain["total_s"], "spec_s": spec["total_s"], "outline_s": outlined["total_s"],
            "outline_spec_s": both["total_s"], "router": "outline" if router else "plain",
            "router_s": both["total_s"] if router else spec["total_s"],
            "same": plain["logits_hash"] == spec["logits_hash"] and outlined["text"] == both["text"]}


def main():
    options = arguments()
    with open(options.questions, newline="", encoding="utf-8") as f:
        questions = [r["question"] for r in csv.DictReader(f)][::options.every]
    rows = []
    for question in questions:
        rows.append(measure(options, question))
        r = rows[-1]
        print(f"{len(rows)}/{len(questions)}: {r['points']} points, {r['tokens']} tokens: plain {r['plain_s']:.2f} s, spec "
              f"{r['spec_s']:.2f}, outline {r['outline_s']:.2f}, both {r['outline_spec_s']:.2f}; router: {r['router']}"
              f"{'' if r['same'] else '; TEXTS DIFFER'}", file=sys.stderr, flush=True)
    if options.rows:
        with open(options.rows, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    print("| points | questions | tokens | plain s | spec | outline | outline + spec | plain / outline | plain / both |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, low, high in (("none", 0, 1), ("2, 3", 2, 3), ("4, 5", 4, 5), ("6, 7", 6, 7), ("8 and more", 8, 99)):
        group = [r for r in rows if low <= r["points"] <= high]
        if not group:
            continue
        def median(of):
            return statistics.median(of(r) for r in group)
        print(f"| {name} | {len(group)} | {median(lambda r: r['tokens']):.0f} | {median(lambda r: r['plain_s']):.2f} | "
              f"{median(lambda r: r['spec_s']):.2f} | {median(lambda r: r['outline_s']):.2f} | "
              f"{median(lambda r: r['outline_spec_s']):.2f} | {median(lambda r: r['plain_s'] / r['outline_s']):.2f} | "
              f"{median(lambda r: r['plain_s'] / r['outline_spec_s']):.2f} |")
    print(f"all: plain {sum(r['plain_s'] for r in rows):.1f} s, spec {sum(r['spec_s'] for r in rows):.1f} s, "
          f"router {sum(r['router_s'] for r in rows):.1f} s; texts equal with and without speculation: "
          f"{sum(r['same'] for r in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
