"""How long the command line takes to answer, and which imports that time goes to.

Each command runs in processes of its own, in turns, and so does a Python that does nothing; the table holds
medians of wall time and of processor time, which on a busy machine is the fairer of the two. What answers
without making anything must not import torch.

Run as ``python benchmarks/startup.py --help``.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import time

GOAL = 0.3
"""How many seconds are wanted at most."""

EBMZOO = ("-m", "ebmzoo")

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "ebmzoo --help": (*EBMZOO, "--help"),
    "ebmzoo reproduce --help": (*EBMZOO, "reproduce", "--help"),
    "ebmzoo list": (*EBMZOO, "list"),
}

ROW = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|(\s+)(\S+)")


def seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Returns how long a Python process takes from start to end, by the wall clock and on the processor."""
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    ended, total = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended - began, total.ru_utime + total.ru_stime - used.ru_utime - used.ru_stime


def imports(arguments: tuple[str, ...]) -> list[tuple[float, float, str]]:
    """Returns every module that a command imports: its own milliseconds, those with its imports, its name."""
    command = [sys.executable, "-X", "importtime", *arguments]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return [(int(own) / 1e3, int(total) / 1e3, name) for own, total, _, name in ROW.findall(report)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="runs of every command [15]")
    parser.add_argument("--top", type=int, default=12, help="how many imports to name [12]")
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in range(options.rounds + 1):
        for name, times in taken.items():
            times.extend([seconds(COMMANDS[name])][:turn])  # the first fills the disk's cache
    print(f"load {os.getloadavg()}, {options.rounds} rounds", "", sep="\n")
    print("| command | wall | processor | goal |", "|:--|--:|--:|--:|", sep="\n")
    for name, times in taken.items():
        wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {name} | {wall:.2f} s | {processor:.2f} s | {f'< {GOAL} s' if 'ebmzoo' in name else ''} |")
    rows = sorted(imports(COMMANDS["ebmzoo list"]), reverse=True)
    print(
        "", "| slowest imports of `ebmzoo list` | itself | with what it imports |", "|:--|--:|--:|", sep="\n"
    )
    for own, total, name in rows[: options.top]:
        print(f"| {name} | {own:.1f} ms | {total:.1f} ms |")


if __name__ == "__main__":
    main()
