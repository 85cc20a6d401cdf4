#!/usr/bin/env python3
"""Speed of speculative decoding over questions: spec-speed.py -m MODEL --rows FILE.csv [options] [-- LAUNCHER...]

Every variant answers the same questions greedily, one at a time (`jupiter batch --parallel 1`), in turn after each
slice of them. LAUNCHER starts jupiter on the boards, for example `jobs/emulate/emulate mpirun`; none: one rank. Rows
are added to FILE.csv; what it holds already is not measured again, so that a long table can be made in pieces. Then:
tokens a step, tokens/s against the first variant (means over questions and the lower end of a 95 % bootstrap interval),
by category with --categories. Answers whose bits differ from the first variant's make it exit 1.
"""
import argparse
import csv
import json
import pathlib
import random
import shlex
import statistics
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import ROOT, call_jupiter

VARIANTS = ("plain=--decode plain", "spec=")
FIELDS = ("variant", "question", "tokens", "steps", "ttft_s", "decode_s", "logits_hash")
# The order of the Vicuna benchmark's questions.
CATEGORIES = (("generic", 10), ("knowledge", 10), ("roleplay", 10), ("common sense", 10), ("Fermi", 10),
              ("counterfactual", 10), ("coding", 7), ("mathematics", 3), ("writing", 10))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--rows", required=True, help="CSV that keeps what is measured")
    p.add_argument("--variant", action="append", help="NAME=OPTIONS of jupiter; may stand there several times; the first is the "
                   f"measure of the others (default: {', '.join(VARIANTS)})")
    p.add_argument("--questions", default=ROOT / "tests/data/router_vicuna.csv", help="CSV with a column question")
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--last", type=int, default=10**6, help="questions FIRST to LAST, the last one not included")
    p.add_argument("--slice", type=int, default=10, help="questions that a variant answers before the next one has its turn")
    p.add_argument("-n", "--tokens", type=int, default=128)
    p.add_argument("-t", "--threads", type=int, default=1)
    p.add_argument("--categories", action="store_true", help="table by category of the Vicuna benchmark")
    p.add_argument("launcher", nargs="*", help="what starts jupiter on the boards")
    return p.parse_args()


def answers(options, numbers, questions, extra):
    """One row for each question."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder) / "in.jsonl", pathlib.Path(folder) / "out.jsonl"
        source.write_text("".join(json.dumps({"id": n, "prompt": questions[n]}) + "\n" for n in numbers), encoding="utf-8")
        call_jupiter("spec-speed", options.launcher, "batch", "-m", options.model, "-i", source, "-o", target, "--parallel", 1,
                     "-c", 1024, "-n", options.tokens, "-t", options.threads, "--no-verify", *extra)
        for line in target.read_text(encoding="utf-8").splitlines():
            j = json.loads(line)
            yield {"question": j["id"], "tokens": len(j["generated_token_ids"]), "steps": j["steps"], "ttft_s": j["ttft_s"],
                   "decode_s": j["total_s"] - j["ttft_s"], "logits_hash": j["logits_hash"]}


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return [{**r, "question": int(r["question"]), "tokens": int(r["tokens"]), "steps": int(r["steps"]),
                 "decode_s": float(r["decode_s"])} for r in csv.DictReader(f)]


def measure(options, variants, questions, path):
    done = {(r["variant"], r["question"]) for r in read_rows(path)}
    last = min(options.last, len(questions))
    for begin in range(options.first, last, options.slice):
        for name, extra in variants.items():
            numbers = [n for n in range(begin, min(begin + options.slice, last)) if (name, n) not in done]
            if not numbers:
                continue
            new = not path.exists()
            with open(path, "a", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, FIELDS)
                if new:
                    writer.writeheader()
                writer.writerows({"variant": name, **row} for row in answers(options, numbers, questions, extra))
        print(f"spec-speed: {min(begin + options.slice, last)} of {last} questions", file=sys.stderr, flush=True)


def lower_bound(values, repeats=4000):
    """Of the mean: the 2.5 % quantile of means of samples drawn with replacement."""
    draw = random.Random(1)
    means = sorted(statistics.fmean(draw.choices(values, k=len(values))) for _ in range(repeats))
    return means[int(0.025 * repeats)]


def summary(name, rows, base):
    """Of questions that both answered and that have something to decode."""
    pairs = [(rows[q], base[q]) for q in sorted(rows.keys() & base.keys()) if rows[q]["tokens"] > 2]
    ratios = [(r["tokens"] - 1) / r["decode_s"] / ((b["tokens"] - 1) / b["decode_s"]) for r, b in pairs]
    rates = [(r["tokens"] - 1) / r["decode_s"] for r, _ in pairs]
    steps = [(r["tokens"] - 1) / r["steps"] for r, _ in pairs]
    over_all = sum(r["tokens"] - 1 for r, _ in pairs) / sum(r["steps"] for r, _ in pairs)
    return (f"| {name} | {len(pairs)} | {statistics.fmean(steps):.2f} | {over_all:.2f} | {statistics.fmean(rates):.1f} | "
            f"{statistics.fmean(ratios):.2f} | {statistics.median(ratios):.2f} | {lower_bound(ratios):.2f} |")


def main():
    options = arguments()
    variants = {}
    for v in options.variant or VARIANTS:
        name, _, extra = v.partition("=")
        variants[name] = shlex.split(extra)
    with open(options.questions, newline="", encoding="utf-8") as f:
        questions = [r["question"] for r in csv.DictReader(f)]
    path = pathlib.Path(options.rows)
    measure(options, variants, questions, path)
    by_variant = {name: {r["question"]: r for r in read_rows(path) if r["variant"] == name} for name in variants}
    base = by_variant[next(iter(variants))]
    print("| variant | questions | tokens a step | over all tokens | tokens/s | speed-up, mean | median | 95 % lower bound |\n"
          "|---|---|---|---|---|---|---|---|")
    for name, rows in by_variant.items():
        print(summary(name, rows, base))
    if options.categories:
        begin = 0
        for category, count in CATEGORIES:
            for name, rows in list(by_variant.items())[1:]:
                part = {q: r for q, r in rows.items() if begin <= q < begin + count}
                if part:
                    print(summary(f"{category}: {name}", part, base))
            begin += count
    different = sum(r["logits_hash"] != base[q]["logits_hash"] for rows in by_variant.values() for q, r in rows.items() if q in base)
    print(f"answers with other bits than {next(iter(variants))}: {different}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
