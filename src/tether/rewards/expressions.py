"""Whether two answers mean the same, a line for each question: a script of its own, which `symbolic.py` starts.

A line in is `[[right, …], said]` as JSON; a line out is `equal`, `different` or `unreadable` (a right answer is). It
takes at most 4 GB of memory; who asks keeps the time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def answer(parse: Any, verify: Any, right: list[str], said: str) -> str:
    """One line out."""
    known = [parse(r if "$" in r or "\\boxed" in r else f"${r}$", parsing_timeout=None) for r in right]
    if not all(known):
        return "unreadable"
    given = parse(said, parsing_timeout=None)
    return "equal" if any(verify(one, given, timeout_seconds=None) for one in known) else "different"


def main() -> None:
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    os.write(out, b"ready\n")
    for line in sys.stdin:
        right, said = json.loads(line)
        try:
            verdict = answer(parse, verify, right, said)
        except Exception:  # out of memory, out of stack: no equality was shown
            verdict = "different"
        os.write(out, f"{verdict}\n".encode())


if __name__ == "__main__":
    main()
