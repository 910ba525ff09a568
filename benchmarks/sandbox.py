"""How many untrusted programs a second the sandbox runs, each started, contained, checked and cleared away.

    python benchmarks/sandbox.py --programs 200 --workers 2

A program reads two numbers and prints their sum. Prints one rate a repeat, and the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from tether.rewards.sandbox import check_containment, run_program

PROGRAM = "a, b = map(int, input().split())\nprint(a + b)\n"


def rate(programs: int, workers: int) -> float:
    """Programs a second; AssertionError where one gives a wrong answer."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        outcomes = list(pool.map(lambda i: run_program(PROGRAM, f"{i} 1"), range(programs)))
    seconds = time.perf_counter() - began
    assert [o.stdout for o in outcomes] == [f"{i + 1}\n" for i in range(programs)]
    return programs / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    check_containment("full")
    rates = [rate(given.programs, given.workers) for _ in range(given.repeats)]
    print(f"{os.cpu_count()} cores, {given.workers} workers, {given.programs} programs, containment full")
    print("programs/s:", " ".join(f"{r:.1f}" for r in rates), f"(median {statistics.median(rates):.1f})")


if __name__ == "__main__":
    main()
