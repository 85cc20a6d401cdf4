#!/usr/bin/env python3
"""Pipelines, tensor groups and pipelines of groups on the same boards: jobs/bench/tensor-table.py -m MODEL -- LAUNCHER...

Profiles the boards that LAUNCHER starts (for example `jobs/emulate/emulate mpirun`), plans a lone answer with each kind of
plan, and lets the plans take turns, decoding plainly. A Markdown table: tokens/s (medians), what they are of the best
pipeline, the prediction and how far it was off, and for tensor plans the gathers and bytes of one layer and token. Every
answer must have the bits of the pipeline's (exit 1).
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import call_jupiter

PROMPT = "hello there, this is a prompt"
PROMPT_TOKENS = 16  # about as many; the plans are for the answer


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-n", "--tokens", type=int, default=64)
    p.add_argument("-r", "--rounds", type=int, default=3)
    p.add_argument("--kinds", nargs="+", default=["pipeline", "tensor", "groups"])
    p.add_argument("-o", "--output", help="folder for the profile and the plans (default: a temporary one)")
    p.add_argument("launcher", nargs="+", help="what starts jupiter on the boards")
    return p.parse_args()


def of_a_layer(report, layers):
    """Gathers, and bytes that one board sends, of a layer and a step; empty for a pipeline."""
    grouped = [r for r in report["ranks"] if r.get("gathers")]
    if not grouped:
        return "", ""
    steps = report["steps"] + 1  # and the prompt's frame
    busiest = max(grouped, key=lambda r: r["gathers"])
    own = layers if len(grouped) == len(report["ranks"]) and len({r["first_layer"] for r in grouped}) == 1 else (
        busiest["last_layer"] - busiest["first_layer"])
    return f"{busiest['gathers'] / steps / own:.1f}", f"{busiest['sent_bytes'] / steps / own:.0f}"


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.output or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cluster, report = folder / "cluster.json", folder / "run.json"
        call_jupiter("tensor-table", options.launcher, "profile", "-m", options.model, "-o", cluster, "-t", 1)
        plans = {}
        for kind in options.kinds:
            plans[kind] = folder / f"plan-{kind}.json"
            call_jupiter("tensor-table", [], "plan", "-m", options.model, "--cluster", cluster, "--kind", kind, "-c", 512, "-p",
                         PROMPT_TOKENS, "-n", options.tokens, "-o", plans[kind])
        runs = {kind: [] for kind in plans}
        for number in range(options.rounds):
            for kind, plan in plans.items():
                call_jupiter("tensor-table", options.launcher, "run", "-m", options.model, "--raw", "-p", PROMPT, "-n",
                             options.tokens, "--ignore-eos", "--decode", "plain", "--no-verify", "-t", 1, "--plan", plan,
                             "--json", report)
                runs[kind].append(json.loads(report.read_text(encoding="utf-8")))
            print(f"tensor-table: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        hashes = {j["logits_hash"] for all_runs in runs.values() for j in all_runs}
        print("| plan | boards by stage | tokens/s | least | most | of pipeline | predicted | off | gathers a layer | "
              "bytes a board sends in them |\n|---|---|---|---|---|---|---|---|---|---|")
        speeds = {kind: [j["decode_tokens_per_s"] for j in all_runs] for kind, all_runs in runs.items()}
        pipeline = statistics.median(next(iter(speeds.values())))
        for kind, plan_file in plans.items():
            plan = json.loads(plan_file.read_text(encoding="utf-8"))
            stages = [1 + len(s.get("tensor_group", {}).get("others", [])) for s in plan["stages"]]
            repeat = {name for s in plan["stages"] for name in s.get("tensor_group", {}).get("repeat", [])}
            found, predicted = statistics.median(speeds[kind]), plan["predicted_decode_tokens_per_s"]
            gathers, sent = of_a_layer(runs[kind][-1], plan["stages"][-1]["last_layer"])
            print(f"| {kind} | {' + '.join(map(str, stages))}{''.join(f', {name} repeated' for name in sorted(repeat))} | "
                  f"{found:.2f} | {min(speeds[kind]):.2f} | {max(speeds[kind]):.2f} | {found / pipeline:.2f} | "
                  f"{predicted:.2f} | {predicted / found - 1:+.0%} | {gathers} | {sent} |")
        if len(hashes) > 1:
            print(f"tensor-table: expected one logits_hash, found {', '.join(sorted(hashes))}", file=sys.stderr)
        return 1 if len(hashes) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
