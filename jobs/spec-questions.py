#!/usr/bin/env python3
"""Tokens per step of drafters on the questions of tests/data/router_vicuna.csv: jobs/spec-questions.py [-m DIR] DRAFT...

DRAFT is what --draft takes: lookup, table=FILE, lookup,table=FILE. Each question: 128 greedy tokens, trees of 16 drafted
tokens, one at a time. Every answer must have the bits of plain decoding (exit 1). Nothing is learned from these questions.
"""
import argparse
import concurrent.futures
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(options, question, *decoding):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([options.jupiter, "run", "-m", options.model, "-p", question, "-n", str(options.tokens), "-t", "1",
                        "-c", "1024", "--no-verify", "--json", out.name, *decoding], check=True,
                       stdout=subprocess.DEVNULL, env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1"))
        return json.loads(pathlib.Path(out.name).read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drafts", nargs="+", metavar="DRAFT")
    parser.add_argument("-m", "--model", default=str(ROOT / "models" / "smollm2-135m"))
    parser.add_argument("-n", "--tokens", type=int, default=128)
    parser.add_argument("--jupiter", default=str(ROOT / "build" / "jupiter"))
    options = parser.parse_args()
    with open(ROOT / "tests" / "data" / "router_vicuna.csv", encoding="utf-8", newline="") as file:
        questions = [row["question"] for row in csv.DictReader(file)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        plain = list(pool.map(lambda q: run(options, q, "--decode", "plain"), questions))
        different = 0
        for draft in options.drafts:
            made = list(pool.map(lambda q: run(options, q, "--spec-mode", "lap", "--draft-width", "17", "--draft-max",
                                               "16", "--draft", draft), questions))
            rates = [m["tokens_per_step"] for m in made]
            wrong = sum(m["logits_hash"] != p["logits_hash"] for m, p in zip(made, plain))
            different += wrong
            tokens = sum(len(m["generated_token_ids"]) - 1 for m in made)
            print(f"{draft}: {statistics.mean(rates):.3f} tokens a step (mean of {len(rates)} questions; "
                  f"{tokens / sum(m['steps'] for m in made):.3f} over all tokens), {wrong} answers differ from plain",
                  flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
