#!/usr/bin/env python3
"""The comparison of the Jupiter paper, of schedules in one program: jobs/bench/paper-table.py [options], as root

  --measure DIR ...     models whose schedules are predicted, and run on emulated boards (default: the 1.1B shape)
  --shapes NAME ...     larger shapes that are only predicted, from the rates of the first measured model's boards
                        (default llama2-7b llama2-13b)
  --environments a b    files of jobs/emulate/boards      --rates 100 1000    Mbit/s of the links
  --memory MIB          of a board in predictions (default 7168)
  -p N, -n N            prompt and new tokens (512 and 128)
  --hit-rate P          of drafts: an oracle that is right so often (default 0.8)
  --rounds N            runs of each plan, in turn (default 3)
  -o DIR                profiles, plans, and table.json

Prints a Markdown table: seconds end to end, predicted and, for plans that this program runs, measured (medians), the
first token's share, and the memory of the board that needs most. A schedule whose board lacks memory is out of memory.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import ROOT, call_jupiter

EMULATE = str(ROOT / "jobs" / "emulate" / "emulate")
SCRIPT = "paper-table"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--measure", nargs="*", default=[ROOT / "models" / "tinyllama-1.1b-random"], type=pathlib.Path)
    p.add_argument("--shapes", nargs="*", default=["llama2-7b", "llama2-13b"])
    p.add_argument("--environments", nargs="+", default=["a", "b"])
    p.add_argument("--rates", nargs="+", type=int, default=[100, 1000])
    p.add_argument("--memory", type=int, default=7168)
    p.add_argument("-p", "--prompt", type=int, default=512)
    p.add_argument("-n", "--new", type=int, default=128)
    p.add_argument("--hit-rate", type=float, default=0.8)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("-o", "--output", type=pathlib.Path)
    return p.parse_args()


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def layer_of(model):
    """Bytes and products of a layer's matrices, and the width of its queries."""
    manifest = read(model / "manifest.json")
    matrices = [d for f in manifest["files"] if f["name"] == "layer_0000.h5" for d in f["datasets"] if d["kind"] == "matrix"]
    config = manifest["config"]
    return (sum(d["size_bytes"] for d in matrices), sum(d["rows"] * d["cols"] for d in matrices),
            config["n_heads"] * config["head_dim"])


def described(cluster, model, memory_mib):
    """The boards of a profile as rates, for shapes that were not measured on them."""
    profile = read(cluster)
    size, macs, q_dim = layer_of(model)
    boards = []
    for b in profile["boards"]:
        base = dict(zip(b["layer"]["base"]["rows"], b["layer"]["base"]["seconds"]))
        most = max(base)
        boards.append({"name": b["host"], "threads": b["threads"], "memory_mib": memory_mib,
                       "read_gb_per_s": size / base[1] / 1e9, "int8_gmac_per_s": macs * most / base[most] / 1e9,
                       "float_gmac_per_s": 2 * q_dim / b["layer"]["per_row_context_s"] / 1e9})
    links = profile["links"]
    return {"boards": boards, "network": {
        "mbit_per_s": statistics.median(l["bytes_per_s"] for l in links) * 8e-6,
        "latency_us": statistics.median(l["latency_s"] for l in links) * 1e6,
        "message_us": statistics.median(b["send"]["message_s"] for b in profile["boards"]) * 1e6}}


class Table:
    def __init__(self, options, folder):
        self.options, self.folder, self.rows = options, folder, []
        self.prompt = folder / "prompt.txt"
        self.prompt.write_text("x" * options.prompt)  # random models have a token for each byte

    def plan(self, name, model, *where):
        """What `plan --baselines` says."""
        target, o = self.folder / f"baselines-{name}", self.options
        call_jupiter(SCRIPT, [], "plan", "-m", model, *where, "-p", o.prompt, "-n", o.new, "-c", o.prompt + o.new + 8,
                     "--hit-rate", o.hit_rate, "--baselines", "--baselines-output", target)
        return target, read(target / "baselines.json")["baselines"]

    def run(self, model, launcher, *extra):
        report, o = self.folder / "run.json", self.options
        call_jupiter(SCRIPT, launcher, "run", "-m", model, "--raw", "-f", self.prompt, "-n", o.new, "--ignore-eos", "-c",
                     o.prompt + o.new + 8, "--no-verify", "-t", 1, "--json", report, *extra)
        return read(report)

    def measure(self, model, target, baselines):
        """Seconds end to end by name, medians; every answer has the same bits."""
        plans = {b["name"]: target / b["plan"] for b in baselines if "plan" in b}
        recorded = self.folder / "recorded.json"
        wanted = self.run(model, [], "--decode", "plain")["logits_hash"]
        os.replace(self.folder / "run.json", recorded)
        oracle = ("--draft", f"oracle:{self.options.hit_rate}:{recorded}")
        seconds = {name: [] for name in plans}
        for number in range(self.options.rounds):
            for name, plan in plans.items():
                plain = not name.startswith("Jupiter") or name.endswith("without drafts")
                j = self.run(model, [EMULATE, "mpirun"], "--plan", plan,
                             *(("--decode", "plain") if plain else oracle))
                if j["logits_hash"] != wanted:
                    sys.exit(f"{SCRIPT}: {name}: other bits")
                seconds[name].append(j["ttft_s"] + self.options.new / j["decode_tokens_per_s"])
            print(f"{SCRIPT}: {model.name}, round {number + 1} of {self.options.rounds}", file=sys.stderr, flush=True)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def add(self, where, model, baselines, measured):
        for b in baselines:
            self.rows.append({**where, "model": model, "system": b["name"], "reason": b["reason"],
                              "ttft_s": b.get("ttft_s"), "predicted_s": b.get("request_s"),
                              "measured_s": measured.get(b["name"]),
                              "most_mib": max(b["memory_bytes"], default=0) >> 20})
        (self.folder / "table.json").write_text(json.dumps(self.rows, indent=1), encoding="utf-8")

    def cluster(self, environment, rate):
        where = {"environment": environment, "rate_mbit": rate}
        subprocess.run([EMULATE, "up", str(ROOT / "jobs" / "emulate" / "boards" / f"{environment}.boards"), "--rate",
                        str(rate)], check=True, stdout=subprocess.DEVNULL)
        profiles = []
        for model in self.options.measure:
            name = f"{environment}-{rate}-{model.name}"
            cluster = self.folder / f"cluster-{name}.json"
            call_jupiter(SCRIPT, [EMULATE, "mpirun"], "profile", "-m", model, "-o", cluster, "-t", 1)
            profiles.append((cluster, model))
            target, baselines = self.plan(name, model, "--cluster", cluster)
            self.add(where, model.name, baselines, self.measure(model, target, baselines))
        boards = self.folder / f"boards-{environment}-{rate}.json"
        boards.write_text(json.dumps(described(*profiles[0], self.options.memory)), encoding="utf-8")
        for shape in self.options.shapes:
            model = self.folder / shape
            call_jupiter(SCRIPT, [], "synth", "--shape", shape, "--manifest-only", "-o", model)
            _, baselines = self.plan(f"{environment}-{rate}-{shape}", model, "--boards", boards)
            self.add(where, shape, baselines, {})

    def print(self):
        print("| boards | Mbit/s | model | schedule | s predicted | s measured | off | first token s | most MiB |\n"
              "|---|---|---|---|---|---|---|---|---|")
        for r in self.rows:
            if r["reason"]:
                times = f"{r['reason']} | | | |"
            else:
                found = r["measured_s"]
                times = (f"{r['predicted_s']:.1f} | {f'{found:.1f}' if found else ''} | "
                         f"{f'''{r['predicted_s'] / found - 1:+.0%}''' if found else ''} | {r['ttft_s']:.1f} |")
            print(f"| {r['environment'].upper()} | {r['rate_mbit']} | {r['model']} | {r['system']} | {times} "
                  f"{r['most_mib'] or ''} |")


def main():
    options = arguments()
    if os.geteuid() != 0 or not options.measure:
        sys.exit(f"{SCRIPT}: expected root (emulated boards) and a model to measure")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        table = Table(options, folder)
        try:
            for environment in options.environments:
                for rate in options.rates:
                    table.cluster(environment, rate)
        finally:
            subprocess.run([EMULATE, "down"], check=False)
        table.print()


if __name__ == "__main__":
    main()
