"""Accuracy runs of one model in several formats against baselines (jobs/accuracy/accuracy.sh): every variant (ranks,
chunks, plan) must give what the format's baseline says."""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import BINARY, ROOT, model_hash

DATA = ROOT / "tests" / "data"
TEXT = DATA / "wikitext2_test_8k.txt"
# What is evaluated, by size. The models' names are part of the baselines' file names.
SIZES = {
    "full": ["--text", TEXT, "--tokens", "2048", "--golden", DATA / "smollm2_greedy.jsonl",
             "--choices", DATA / "choices.jsonl", "--self-check"],
    "short": ["--text", TEXT, "--tokens", "512", "--choices", DATA / "choices.jsonl", "--self-check"],
    "tiny": ["--text", TEXT, "--tokens", "400", "--window", "80", "--self-check"],
}
# How it is computed: (name, ranks, options, whether with a plan). None of it may change a result. Without --decode
# plain the self-check generates with speculation.
VARIANTS = [
    ("P=1", 1, [], False),
    ("P=1, chunks of 48", 1, ["--chunk", "48"], False),
    ("P=4", 4, [], False),
    ("P=4, chunks of 32", 4, ["--chunk", "32"], False),
    ("P=4, plan", 4, [], True),
    ("P=3 of 4, plan", 4, [], "left out"),
    ("P=1, plain", 1, ["--decode", "plain"], False),
    ("P=4, plain", 4, ["--decode", "plain"], False),
]
# By size: the names of its variants. The tiny models are as small as two layers.
VARIANTS += [("P=2, chunks of 32", 2, ["--chunk", "32"], False), ("P=2, plan", 2, [], True),
             ("P=2, plain", 2, ["--decode", "plain"], False)]
CHOSEN = {"full": [v[0] for v in VARIANTS if "P=2" not in v[0]], "short": ["P=1", "P=4, plan"],
          "tiny": ["P=1", "P=1, chunks of 48", "P=2, chunks of 32", "P=2, plan", "P=2, plain"]}


def uneven_plan(model, ranks, left_out):
    """Layers by no rule, chunks of many lengths, stages in another order than the ranks."""
    layers = json.loads((model / "manifest.json").read_text())["config"]["n_layers"]
    host, used = platform.node(), ranks - 1 if left_out else ranks
    cuts = [0] + sorted({max(i, layers * i * i // (used * used)) for i in range(1, used)}) + [layers]
    slots = list(range(ranks))[::-1][:used]
    stages = [{"host": host, "slot": slot, "first_layer": cuts[i], "last_layer": cuts[i + 1], "weight_bytes": 0,
               "private_bytes": 0, "time_share": 0} for i, slot in enumerate(slots)]
    lengths = [1, 2, 3, 5, 8, 13, 21, 34]
    return {"kind": "plan", "objective": "prefill", "prompt_tokens": 512, "new_tokens": 0, "context_tokens": 8192,
            "predicted_ttft_s": 0, "predicted_decode_tokens_per_s": 0, "stages": stages,
            "left_out": [f"{host}:0"] if left_out else [],
            "chunks": [{"prompt_tokens": 512, "lengths": [*lengths, *[85] * 5]}]}


class Accuracy:
    def __init__(self, options):
        self.options, self.failed = options, []
        options.output.mkdir(parents=True, exist_ok=True)

    def jupiter(self, model, ranks, arguments):
        start = [ROOT / "jobs" / "jupiter-run", "-n", ranks] if ranks > 1 else [self.options.jupiter]
        command = [*start, "eval", "-m", model, *SIZES[self.options.size], *arguments]
        return subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False,
                              env=dict(os.environ, JUPITER=str(self.options.jupiter)))

    def plan_for(self, model, ranks, left_out):
        plan = uneven_plan(model, ranks, left_out)
        plan["model_hash"] = model_hash(model, self.options.jupiter)
        path = self.options.output / "plan.json"
        path.write_text(json.dumps(plan))
        return path

    def check(self, name, model, variant, baseline, reference):
        title, ranks, arguments, plan = variant
        arguments = [*arguments, *reference, "--baseline", baseline]
        if plan:
            arguments += ["--plan", self.plan_for(model, ranks, plan == "left out")]
        stem = f"{name}-{title}".translate(str.maketrans({" ": "", ",": "-", "=": ""}))
        arguments += ["--json", self.options.output / f"{stem}.json", "--junit", self.options.output / f"{stem}.xml"]
        if self.options.update and title == "P=1":
            arguments += ["--update-baseline"]
        start = time.monotonic()
        result = self.jupiter(model, ranks, arguments)
        word = {0: "passed", 1: "FAILED"}.get(result.returncode, f"exit {result.returncode}")
        print(f"{name:<8} {title:<20} {word}  ({time.monotonic() - start:.1f} s)", flush=True)
        if result.returncode != 0:
            print(result.stdout + result.stderr, flush=True)
            self.failed.append(result.returncode)

    def reference(self, formats):
        """Options that compare with the distributions of the f32 model, where that is one of the formats."""
        if self.options.size != "full" or "f32" not in formats:
            return []
        path = self.options.output / "reference.h5"
        result = self.jupiter(formats["f32"], 1, ["--save-reference", path])
        if result.returncode != 0:
            sys.exit(f"accuracy: reference: exit {result.returncode}\n{result.stderr}")
        return ["--reference", path]

    def run(self):
        formats = dict(text.split("=", 1) for text in self.options.models)
        formats = {name: pathlib.Path(folder) for name, folder in formats.items()}
        for folder in formats.values():
            if not (folder / "manifest.json").exists():
                print(f"accuracy: {folder}: expected a model folder, found none", file=sys.stderr)
                return 3
        reference = self.reference(formats)
        for _ in range(self.options.repeat):
            for name, model in formats.items():
                baseline = self.options.baselines / f"{self.options.name}-{name}-{self.options.size}.json"
                for variant in [v for v in VARIANTS if v[0] in CHOSEN[self.options.size]]:
                    self.check(name, model, variant, baseline, reference if name != "f32" else [])
        if reference:
            reference[1].unlink()
        return max(self.failed, default=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--name", default="smollm2", help="of the model, in the names of baselines")
    parser.add_argument("--models", nargs="+", required=True, metavar="FORMAT=FOLDER")
    parser.add_argument("--baselines", type=pathlib.Path, default=ROOT / "jobs" / "accuracy" / "baselines")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for results (JSON, JUnit XML)")
    parser.add_argument("--jupiter", default=BINARY)
    parser.add_argument("--update", action="store_true", help="write baselines (from one rank), then check the others")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    code = Accuracy(options).run()
    print("all passed" if code == 0 else "NOT all passed")
    return code


if __name__ == "__main__":
    sys.exit(main())
