#!/usr/bin/env python3
"""Latency of outline mode by question: jobs/bench/outline-table.py -m MODEL [options] [-- LAUNCHER...]

For each question: the answer with an outline (with and without speculation), then the plain and the speculative answer
of the same number of tokens, and which of them the router would take. Questions that have rows in FILE already (--rows)
are not asked again, so that a long table can be made in slices (--limit). LAUNCHER starts jupiter on the boards, for
example `jobs/emulate/emulate mpirun`; none: one rank. Prints medians by number of points, and a row for each question
with --rows.
"""
import argparse
import csv
import json
import os
import pathlib
import statistics
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import ROOT, call_jupiter


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--questions", default=ROOT / "tests/data/router_vicuna.csv", help="CSV with a column question")
    p.add_argument("--every", type=int, default=1, help="only every Nth question")
    p.add_argument("--offset", type=int, default=0, help="of the first one")
    p.add_argument("--limit", type=int, default=1000, help="new questions at most")
    p.add_argument("-n", "--tokens", type=int, default=384, help="of an answer without an outline at most: some never end")
    p.add_argument("--point-tokens", type=int, default=96)
    p.add_argument("-t", "--threads", type=int, default=1)
    p.add_argument("--rows", help="CSV to which each question's row is added")
    p.add_argument("launcher", nargs="*", help="what starts jupiter on the boards")
    return p.parse_args()


def run(options, question, *extra):
    """The JSON of one answer."""
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "answer.json"
        call_jupiter("outline-table", options.launcher, "run", "-m", options.model, "-p", question, "-t", options.threads,
                     "--no-verify", "--point-tokens", options.point_tokens, "--json", target, *extra)
        return json.loads(target.read_text())


def measure(options, question):
    outlined = run(options, question, "-n", options.tokens, "--outline", "always", "--decode", "plain")
    both = run(options, question, "-n", options.tokens, "--outline", "always")
    router = both["outline"]["suits"] > 0.5
    tokens = max(len(outlined["generated_token_ids"]), 2)
    same = ("-n", tokens, "--ignore-eos")
    plain, spec = run(options, question, *same, "--decode", "plain"), run(options, question, *same)
    return {"question": question, "points": len(outlined["outline"]["points"]), "tokens": tokens,
            "plain_s": plain["total_s"], "spec_s": spec["total_s"], "outline_s": outlined["total_s"],
            "outline_spec_s": both["total_s"], "router": "outline" if router else "plain",
            "router_s": both["total_s"] if router else spec["total_s"],
            "same": plain["logits_hash"] == spec["logits_hash"] and outlined["text"] == both["text"]}


def read_rows(path):
    if not path or not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    for r in rows:
        r.update({k: float(v) for k, v in r.items() if k.endswith("_s") or k in ("points", "tokens")})
        r["same"] = r["same"] == "True"
    return rows


def main():
    options = arguments()
    with open(options.questions, newline="", encoding="utf-8") as f:
        questions = [r["question"] for r in csv.DictReader(f)][options.offset::options.every]
    rows = read_rows(options.rows)
    asked = {r["question"] for r in rows}
    for question in [q for q in questions if q not in asked][:options.limit]:
        rows.append(measure(options, question))
        r = rows[-1]
        print(f"{len(rows)}/{len(questions)}: {r['points']} points, {r['tokens']} tokens: plain {r['plain_s']:.2f} s, spec "
              f"{r['spec_s']:.2f}, outline {r['outline_s']:.2f}, both {r['outline_spec_s']:.2f}; router: {r['router']}"
              f"{'' if r['same'] else '; TEXTS DIFFER'}", file=sys.stderr, flush=True)
        if options.rows:
            new = not os.path.exists(options.rows)
            with open(options.rows, "a", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, r.keys())
                if new:
                    writer.writeheader()
                writer.writerow(r)
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
