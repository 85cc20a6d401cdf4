#!/usr/bin/env python3
"""Runs llama-bench and jupiter bench in turn on one model: medians, best runs and ratios (jupiter / llama.cpp)."""
import argparse
import json
import os
import statistics
import subprocess
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("llama-bench", "gguf", "jupiter", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tests", type=int, nargs=2, default=[512, 128], metavar=("PROMPT", "GENERATED"))
    parser.add_argument("--wait-idle", type=float, default=0, metavar="S",
                        help="before every run wait at most so long until nobody else uses the machine")
    return parser.parse_args()


def busy_share(seconds):
    """Of all cores' time in the next seconds, the share that somebody used."""
    def times():
        with open("/proc/stat", encoding="ascii") as stat:
            values = [int(word) for word in stat.readline().split()[1:9]]
        return sum(values), values[3] + values[4]  # idle, and waiting for a disk
    total, idle = times()
    time.sleep(seconds)
    later_total, later_idle = times()
    return 1 - (later_idle - idle) / max(later_total - total, 1)


def wait_idle(limit_s):
    end = time.monotonic() + limit_s
    while time.monotonic() < end and busy_share(0.5) > 0.05:
        pass


def rows_of(command):
    """The rows of one run of either program: both write llama-bench's JSON."""
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def measure(args, threads):
    """{test: {program: [row of a round]}}"""
    prompt, generated = args.tests
    common = ["-p", str(prompt), "-n", str(generated), "-r", "1", "-t", str(threads), "-o", "json"]
    programs = {"llama.cpp": [args.llama_bench, "-m", args.gguf], "jupiter": [args.jupiter, "bench", "-m", args.model]}
    found = {}
    for i in range(args.rounds):
        # Whoever comes first may find the machine cooler, or busier: they take turns at that, too.
        for program, command in sorted(programs.items(), reverse=i % 2 == 1):
            wait_idle(args.wait_idle)
            for row in rows_of(command + common):
                test = f"tg{row['n_gen']}" if row["n_gen"] else f"pp{row['n_prompt']}"
                found.setdefault(test, {}).setdefault(program, []).append(row)
    return found


def describe(rows):
    """Of jupiter: median share of the peak, and the peaks themselves."""
    median = {key: statistics.median(row[key] or 0 for row in rows)
              for key in ("peak_fraction", "peak_read_gb_per_s", "peak_multiply_gmac_per_s", "read_gb_per_s")}
    return (f"{median['peak_fraction']:7.1%} of peak (read {median['read_gb_per_s']:.1f} GB/s; peaks: "
            f"{median['peak_read_gb_per_s']:.1f} GB/s, {median['peak_multiply_gmac_per_s']:.0f} GMAC/s)")


def main():
    args = parse_arguments()
    print(f"{args.gguf}: tokens/s, median (best) of {args.rounds} rounds in turn; load before: {os.getloadavg()[0]:.2f}")
    for threads in args.threads:
        for test, programs in measure(args, threads).items():
            speed = {name: [row["avg_ts"] for row in rows] for name, rows in programs.items()}
            median = {name: statistics.median(values) for name, values in speed.items()}
            best = {name: max(values) for name, values in speed.items()}
            text = "  ".join(f"{name} {median[name]:8.1f} ({best[name]:8.1f})" for name in speed)
            print(f"  {test:>6} -t {threads}  {text}  ratio {median['jupiter'] / median['llama.cpp']:5.2f} "
                  f"(best {best['jupiter'] / best['llama.cpp']:5.2f})  {describe(programs['jupiter'])}", flush=True)


if __name__ == "__main__":
    main()
