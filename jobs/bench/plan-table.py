#!/usr/bin/env python3
"""Plans of each kind on the same boards, beside one board: jobs/bench/plan-table.py -m MODEL [options] -- LAUNCHER...

  --kinds KIND ...   one (the best board alone), any (the plan that a user gets), pipeline, tensor, groups; default all
  --hit-rate P       decodes with drafts too, from an oracle that is right so often; plans expect it
  -n N, -r N         new tokens (64), rounds (3)      -o DIR   profile and plans (default: a temporary folder)

Profiles the boards that LAUNCHER starts (for example `jobs/emulate/emulate mpirun`), plans a lone answer with each kind
of plan, and lets the plans take turns. A Markdown table: tokens/s (medians), what they are of the first kind, the
prediction and how far it was off, and for tensor plans the gathers and bytes of one layer and token. Every answer must
have the same bits (exit 1).
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import call_jupiter

SCRIPT = "plan-table"
KINDS = ["one", "any", "pipeline", "tensor", "groups"]
PROMPT = "hello there, this is a prompt"
PROMPT_TOKENS = 16  # about as many; the plans are for the answer
PREDICTED = {"plain": "predicted_decode_tokens_per_s", "drafts": "predicted_speculative_tokens_per_s"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("-n", "--tokens", type=int, default=64)
    p.add_argument("-r", "--rounds", type=int, default=3)
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    p.add_argument("--hit-rate", type=float)
    p.add_argument("-o", "--output", help="folder for the profile and the plans (default: a temporary one)")
    p.add_argument("launcher", nargs="+", help="what starts jupiter on the boards")
    return p.parse_args()


class Table:
    def __init__(self, options, folder):
        self.options, self.cluster, self.report = options, folder / "cluster.json", folder / "run.json"
        self.recorded = folder / "recorded.json"
        call_jupiter(SCRIPT, options.launcher, "profile", "-m", options.model, "-o", self.cluster, "-t", 1)
        self.decoding = {"plain": ["--decode", "plain"]}
        if options.hit_rate:
            self.decoding["drafts"] = ["--draft", f"oracle:{options.hit_rate}:{self.recorded}"]
        self.plans = {kind: self.plan(kind, folder / f"plan-{kind}.json") for kind in options.kinds}
        self.runs = {(kind, way): [] for way in self.decoding for kind in self.plans}

    def others(self):
        """Every host but the one that computes a layer quickest."""
        boards = json.loads(self.cluster.read_text(encoding="utf-8"))["boards"]
        best = min(boards, key=lambda b: b["layer"]["base"]["seconds"][0])
        return sorted({b["host"] for b in boards} - {best["host"]})

    def plan(self, kind, file):
        which = [word for host in self.others() for word in ("--without", host)] if kind == "one" else ["--kind", kind]
        call_jupiter(SCRIPT, [], "plan", "-m", self.options.model, "--cluster", self.cluster, *which, "-c", 512, "-p",
                     PROMPT_TOKENS, "-n", self.options.tokens, "--hit-rate", self.options.hit_rate or 0, "-o", file)
        if kind == "one":  # ranks on the other boards wait
            plan = json.loads(file.read_text(encoding="utf-8"))
            boards = json.loads(self.cluster.read_text(encoding="utf-8"))["boards"]
            plan["left_out"] = [f"{b['host']}:{b['slot']}" for b in boards if b["host"] in self.others()]
            file.write_text(json.dumps(plan), encoding="utf-8")
        return file

    def run(self, launcher, report, *how):
        call_jupiter(SCRIPT, launcher, "run", "-m", self.options.model, "--raw", "-p", PROMPT, "-n",
                     self.options.tokens, "--ignore-eos", "-c", 512, "--no-verify", "-t", 1, "--json", report, *how)
        return json.loads(report.read_text(encoding="utf-8"))

    def measure(self):
        self.run([], self.recorded, "--decode", "plain")
        for number in range(self.options.rounds):
            for kind, way in self.runs:
                report = self.run(self.options.launcher, self.report, *self.decoding[way], "--plan", self.plans[kind])
                self.runs[kind, way].append(report)
            print(f"{SCRIPT}: round {number + 1} of {self.options.rounds}", file=sys.stderr, flush=True)

    def print(self):
        print("| decoding | plan | boards by stage | tokens/s | least | most | of the first | predicted | off | "
              "drafts right | gathers a layer | bytes a board sends in them |\n"
              "|---|---|---|---|---|---|---|---|---|---|---|---|")
        speeds = {key: [j["decode_tokens_per_s"] for j in runs] for key, runs in self.runs.items()}
        for (kind, way), values in speeds.items():
            plan = json.loads(self.plans[kind].read_text(encoding="utf-8"))
            found, predicted = statistics.median(values), plan[PREDICTED[way]]
            first = statistics.median(speeds[next(iter(self.plans)), way])
            gathers, sent = of_a_layer(self.runs[kind, way][-1], plan["stages"][-1]["last_layer"])
            print(f"| {way} | {kind} | {layout(plan)} | {found:.2f} | {min(values):.2f} | {max(values):.2f} | "
                  f"{found / first:.2f} | {predicted:.2f} | {predicted / found - 1:+.0%} | "
                  f"{right(self.runs[kind, way])} | {gathers} | {sent} |")


def right(reports):
    """The share of drafts that were right on the way to the answer; a short one may miss the oracle's rate by far."""
    accepted = sum(j.get("draft", {}).get("accepted", 0) for j in reports)
    misses = sum(j.get("draft", {}).get("misses", 0) for j in reports)
    return f"{accepted / (accepted + misses):.0%}" if accepted else ""


def layout(plan):
    """Boards by stage, what tensor groups repeat, and whether the output head is shared."""
    stages = [1 + len(s.get("tensor_group", {}).get("others", [])) for s in plan["stages"]]
    repeat = {name for s in plan["stages"] for name in s.get("tensor_group", {}).get("repeat", [])}
    more = [f"{name} repeated" for name in sorted(repeat)] + (["head shared"] if "output_head" in plan else [])
    return ", ".join([" + ".join(map(str, stages)), *more])


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
        table = Table(options, folder)
        table.measure()
        table.print()
        hashes = {j["logits_hash"] for runs in table.runs.values() for j in runs}
    if len(hashes) > 1:
        print(f"{SCRIPT}: expected one logits_hash, found {', '.join(sorted(hashes))}", file=sys.stderr)
    return 1 if len(hashes) > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
