#!/usr/bin/env python3
"""A batch of wild requests, killed and resumed: every valid request must be answered with the bits that it has alone.

  batch-stress.py -m models/smollm2-135m [-n 3] [--requests 2000] [--cache-tokens 2048] [--kills 5] [--seed 1]

The requests have lengths, shared beginnings and sampling at random, with and without max_tokens; one in eight cannot be
answered: broken or deeply nested JSON, numbers out of range, too long a prompt, an id twice, no UTF-8. The batch runs
on several ranks (`-n`) with a small cache, and is killed with SIGKILL and resumed. Then the valid requests are answered
one at a time, plainly decoded, on one rank, and compared. JUPITER names the binary. Exit code 1: something differs."""
import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # jobs
from jupiter_program import BINARY, ROOT

WORDS = "boat sea wind sail rope harbour island storm anchor map star night crew deck".split()
DEEP = 200_000  # levels of a nested line


def text(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def bad_line(rng, number, context):
    """A line that cannot be answered."""
    fields = {"id": f"bad {number}", "prompt": "Name a boat.", "max_tokens": 4}
    kind = rng.randrange(9)
    if kind == 0:
        return b'{"id": "bad ' + str(number).encode() + b'", "prompt": '
    if kind == 1:
        return b"[" * DEEP + b"]" * rng.choice([0, DEEP])
    if kind == 2:
        return b'{"id": "\xff\xfe", "prompt": "x"}'
    fields.update({3: {"prompt": text(rng, 2 * context)}, 4: {"max_tokens": rng.choice([-1, 0, 1.5, 1e30])},
                   5: {"top_k": 1 << 40}, 6: {"prompt": ""}, 7: {"temperature": "hot"}, 8: {"seed": 1e300}}[kind])
    return json.dumps(fields).encode()


def requests(rng, count, context):
    """Lines of the input, and those among them that must be answered, by id."""
    beginnings = [text(rng, rng.randint(20, 150)) + ". " for _ in range(4)]
    lines, valid = [], {}
    for i in range(count):
        if rng.random() < 1 / 8:
            lines.append(bad_line(rng, i, context))
            continue
        beginning = rng.choice(beginnings) if rng.random() < 0.5 else ""
        r = {"id": i, "prompt": beginning + f"Question {i}: " + text(rng, rng.choice([1, 3, 10, 30, 90]))}
        if rng.random() < 0.9:
            r["max_tokens"] = rng.choice([1, 2, 4, 8, 20, 40, (1 << 63) - 1 if rng.random() < 0.02 else 30])
        if rng.random() < 0.3:
            r.update(temperature=0.8, top_k=40, seed=rng.randrange(1 << 31), repeat_penalty=1.1)
        valid[i] = r
        lines.append(json.dumps(r).encode())
        if rng.random() < 0.02:
            lines.append(json.dumps(dict(r, prompt="the same id again")).encode())
    return lines, valid


def answers(path):
    """The last answer of each id."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)
        if "error" not in answer:
            found[answer["id"]] = answer
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-n", "--ranks", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--cache-tokens", type=int, default=2048)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    o = parser.parse_args()
    rng = random.Random(o.seed)
    lines, valid = requests(rng, o.requests, o.cache_tokens)
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with tempfile.TemporaryDirectory(prefix="jupiter-stress-") as folder:
        source, out, alone = (pathlib.Path(folder) / name for name in ("in.jsonl", "out.jsonl", "alone.jsonl"))
        source.write_bytes(b"\n".join(lines) + b"\n")
        options = ["-m", o.model, "-c", str(o.cache_tokens), "--cache-tokens", str(o.cache_tokens)]
        command = [ROOT / "jobs" / "jupiter-run", "-n", str(o.ranks), "batch", *options, "-i", source, "-o", out,
                   "--resume", "--stats"]
        for kill in range(o.kills + 1):
            start = time.monotonic()
            with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True,
                                  start_new_session=True) as process:
                wanted = len(lines) * (kill + 1) // (o.kills + 2)
                killed = False
                while kill < o.kills and process.poll() is None:
                    if out.exists() and out.read_bytes().count(b"\n") >= wanted:
                        subprocess.run(["pkill", "-KILL", "-f", str(out)], check=False)
                        killed = True
                    time.sleep(0.05)
                errors = process.communicate()[1]
            said = [line for line in errors.splitlines() if line.startswith(("jupiter: ", "batch:")) or " answers, " in line]
            print(f"start {kill + 1}: exit {process.returncode} after {time.monotonic() - start:.0f} s, "
                  f"{out.read_bytes().count(bytes([10]))} lines; {said[-1] if said else ''}", flush=True)
            # Some requests cannot be answered: that is exit code 1, behind the line of --stats.
            if not killed and (process.returncode != 1 or " answers, " not in errors):
                sys.exit(f"expected exit code 1 after all requests, found {process.returncode}: {errors[-3000:]}")
            time.sleep(1)
        source.write_text("".join(json.dumps(r) + "\n" for r in valid.values()), encoding="utf-8")
        subprocess.run([BINARY, "batch", *options[:4], "-i", source, "-o", alone, "--parallel", "1", "--decode", "plain"],
                       check=True, env=environment, stderr=subprocess.DEVNULL)
        got, want = answers(out), answers(alone)
        keys = ("text", "generated_token_ids", "finish_reason", "logits_hash")
        wrong = [i for i in valid if i not in got or any(got[i][k] != want[i][k] for k in keys)]
        print(f"{len(valid)} valid requests, {len(got)} answers, {len(wrong)} missing or other than alone {wrong[:10]}")
        sys.exit(1 if wrong or set(got) != set(valid) else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
