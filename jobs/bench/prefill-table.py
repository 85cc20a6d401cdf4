"""Measures runs on emulated boards against each other and against the plan's predictions (prefill-table.sh)."""
import argparse
import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys

PROMPT_TOKENS = (512, 300)  # the second is on no grid: its prediction is checked, nothing else
NEW_TOKENS = 64
PREDICTED = ("predicted_ttft_s", "predicted_decode_tokens_per_s")
FIXED_CHUNKS = (16, 32, 64, 128, 256)
CSV_FIELDS = ("environment", "rate_mbit", "model", "prompt_tokens", "variant", "round", "ttft_s", "decode_tokens_per_s",
              *PREDICTED, "resident_mib", "predicted_mib", "logits_hash", "sent_bytes", "compute_s", "wait_s")
TITLES = ("boards", "Mbit/s", "model", "one board", "equal split", "plan", "plan / one", "equal / plan",
          "best fixed chunk", "plan / fixed", "predicted", "off", "tokens/s", "predicted", "off", "300 tokens",
          "predicted", "off", "memory off")


def call(*command):
    """Runs a command that must succeed; its standard output."""
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"prefill-table: {' '.join(map(str, command))}: exit {result.returncode}\n{result.stderr}")
    return result.stdout


def note(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    """Everything measured with one model on boards that are up."""

    def __init__(self, options, environment, rate, model, rows):
        self.options, self.model, self.rows = options, pathlib.Path(model), rows
        self.common = {"environment": environment, "rate_mbit": rate, "model": self.model.name}
        self.folder = options.output
        self.cluster = self.folder / f"cluster-{environment}-{rate}-{self.model.name}.json"
        self.hashes = {}

    def boards(self, *arguments):
        return call(self.options.emulate, "mpirun", *arguments)

    def profile(self):
        self.boards(self.options.jupiter, "profile", "-m", self.model, "-o", self.cluster)

    def plan(self, tokens):
        path = self.folder / f"plan-{'-'.join(map(str, self.common.values()))}-{tokens}.json"
        call(self.options.jupiter, "plan", "-m", self.model, "--cluster", self.cluster, "-p", tokens, "-n", NEW_TOKENS,
             "-c", tokens + NEW_TOKENS, "--objective", "prefill", "--kind", "pipeline", "-o", path)
        return path

    def equal_plan(self, plan):
        """As many layers on each board, in order of their names: what other programs do."""
        j = json.loads(plan.read_text())
        places = sorted([f"{s['host']}:{s['slot']}" for s in j["stages"]] + j["left_out"])
        layers, old = j["stages"][-1]["last_layer"], j["stages"][0]
        j["stages"], j["left_out"] = [], []
        for i, place in enumerate(places):
            host, _, slot = place.rpartition(":")
            old.pop("tensor_group", None)
            j["stages"].append({**old, "host": host, "slot": int(slot), "first_layer": layers * i // len(places),
                                "last_layer": layers * (i + 1) // len(places)})
        path = plan.with_name("equal-" + plan.name)
        path.write_text(json.dumps(j))
        return path

    def prompt(self, tokens):
        """A file with a prompt of so many tokens; speed does not depend on what it says."""
        path, report = self.folder / f"prompt-{self.model.name}-{tokens}.txt", self.folder / "tokens.json"
        words = tokens
        for _ in range(10):
            path.write_text(" a" * words)
            call(self.options.jupiter, "run", "-m", self.model, "--raw", "-f", path, "-n", 1, "--no-verify",
                 "--json", report)
            found = len(json.loads(report.read_text())["prompt_token_ids"])
            if found == tokens:
                return path
            words = max(1, words + (tokens - found) * words // found or words + 1)
        sys.exit(f"prefill-table: {self.model}: expected a prompt of {tokens} tokens, found none")

    def run(self, variant, number, prompt_file, tokens, arguments, ranks=None, new_tokens=NEW_TOKENS, plan=None):
        report = self.folder / "run.json"
        self.boards(*(["-n", ranks] if ranks else []), self.options.jupiter, "run", "-m", self.model, "--raw", "-f",
                    prompt_file, "-n", new_tokens, "--ignore-eos", "--decode", "plain", "--json", report, *arguments)
        j = json.loads(report.read_text())
        first = self.hashes.setdefault((tokens, new_tokens), j["logits_hash"])
        if j["logits_hash"] != first:
            sys.exit(f"prefill-table: {variant}: expected logits_hash {first}, found {j['logits_hash']}")
        predicted = json.loads(plan.read_text()) if plan else {}
        self.rows.append({
            **self.common, "prompt_tokens": tokens, "variant": variant, "round": number, "ttft_s": j["ttft_s"],
            "decode_tokens_per_s": j["decode_tokens_per_s"] if new_tokens > 1 else "",
            **{name: predicted.get(name, "") for name in PREDICTED},
            "resident_mib": sum(r["peak_rss_bytes"] for r in j["ranks"] if r["weight_bytes"]) / 2**20,
            "predicted_mib": sum(s["weight_bytes"] + s["private_bytes"] for s in predicted.get("stages", [])) / 2**20,
            "logits_hash": j["logits_hash"], "sent_bytes": " ".join(str(r["sent_bytes"]) for r in j["ranks"]),
            "compute_s": " ".join(f"{r['compute_s']:.3f}" for r in j["ranks"]),
            "wait_s": " ".join(f"{r['wait_s']:.3f}" for r in j["ranks"])})

    def measure(self):
        prompts = {tokens: self.prompt(tokens) for tokens in PROMPT_TOKENS}
        for number in range(self.options.rounds):
            self.profile()  # a machine changes in an hour: each round predicts itself
            for tokens, prompt in prompts.items():
                plan = self.plan(tokens)
                self.run("plan", number, prompt, tokens, ["--plan", plan], plan=plan)
                if tokens != PROMPT_TOKENS[0]:
                    continue
                self.run("one", number, prompt, tokens, [], ranks=1)
                self.run("equal", number, prompt, tokens, ["--plan", self.equal_plan(plan), "--chunk", 128])
                for chunk in FIXED_CHUNKS:  # the answer is generated once: the bits must be the same
                    self.run(f"chunk {chunk}", number, prompt, tokens, ["--plan", plan, "--chunk", chunk],
                             new_tokens=1 if number else NEW_TOKENS)
            note(f"{self.common} round {number}: done")

    def median(self, variant, field, tokens=PROMPT_TOKENS[0]):
        return statistics.median(row[field] for row in self.rows if row["variant"] == variant and row[field] != "" and
                                 row["prompt_tokens"] == tokens and self.common.items() <= row.items())

    def largest_error(self):
        """Of time to first token and tokens/s, at both prompt lengths."""
        errors = {f"{field} at {tokens} tokens": self.median("plan", f"predicted_{field}", tokens) /
                                                 self.median("plan", field, tokens) - 1
                  for field in ("ttft_s", "decode_tokens_per_s") for tokens in PROMPT_TOKENS}
        worst = max(errors, key=lambda name: abs(errors[name]))
        return f"{worst} {errors[worst]:+.1%}"

    def table_row(self):
        one, equal, plan = (self.median(v, "ttft_s") for v in ("one", "equal", "plan"))
        chunk, fixed = min(((c, self.median(f"chunk {c}", "ttft_s")) for c in FIXED_CHUNKS), key=lambda pair: pair[1])
        speed, predicted_speed = self.median("plan", "decode_tokens_per_s"), self.median("plan", PREDICTED[1])
        other, predicted_other = (self.median("plan", field, PROMPT_TOKENS[1]) for field in ("ttft_s", PREDICTED[0]))
        predicted = self.median("plan", PREDICTED[0])
        return [self.common["environment"].upper(), self.common["rate_mbit"], self.common["model"],
                f"{one:.3f} s", f"{equal:.3f} s", f"{plan:.3f} s", f"{plan / one:.2f}", f"{equal / plan:.2f}",
                f"{fixed:.3f} s ({chunk})", f"{plan / fixed:.2f}", f"{predicted:.3f} s", f"{predicted / plan - 1:+.0%}",
                f"{speed:.1f}", f"{predicted_speed:.1f}", f"{predicted_speed / speed - 1:+.0%}",
                f"{other:.3f} s", f"{predicted_other:.3f} s", f"{predicted_other / other - 1:+.0%}",
                f"{self.median('plan', 'predicted_mib') / self.median('plan', 'resident_mib') - 1:+.0%}"]


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("jupiter", "emulate", "boards", "output"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    for name in ("environments", "rates", "models"):
        parser.add_argument(f"--{name}", nargs="+", required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    options.output = options.output.resolve()
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    rows, table = [], ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    for environment in options.environments:
        for rate in options.rates:
            call(options.emulate, "up", options.boards / f"{environment}.boards", "--rate", rate)
            try:
                for model in options.models:
                    bench = Bench(options, environment, rate, model, rows)
                    bench.measure()
                    table.append("| " + " | ".join(bench.table_row()) + " |")
                    note(table[-1])
                    note("largest error of a prediction (bar: 15 %): " + bench.largest_error())
                    write_csv(options.output / "runs.csv", rows)
                    (options.output / "table.md").write_text("\n".join(table) + "\n")
            finally:
                call(options.emulate, "down")
    print("\n".join(table))


if __name__ == "__main__":
    main()
