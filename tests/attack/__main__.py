"""Attack the host from a guest: `python -m tests.attack --steps 10000000 --seed 0`.

Runs hostile programs, each also as `--exact` does, until they have taken so many instructions.
Exit status 1 if one reached anything of the host's.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.attack.campaign import Findings, Task, run_isolated

_CHUNK = 100


def main(arguments: list[str] | None = None) -> int:
    """Run the programs; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack", description="Attack the host from a guest."
    )
    parser.add_argument(
        "--steps", type=int, default=10_000_000,
        help="how many guest instructions to run at least; one program runs up to a million",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    total = Findings()
    seed = options.seed
    start = time.monotonic()
    while total.steps < options.steps:
        for exact in (False, True):
            found = run_isolated(Task(seed, _CHUNK, exact))
            total.add(found)
            for line in found.broken:
                print(line, flush=True)
            print(f"{total.programs} programs, {total.steps} steps", file=sys.stderr, flush=True)
        seed += _CHUNK
    seconds = time.monotonic() - start
    print(f"{total.steps} steps of {total.programs} programs, seed {options.seed}, {seconds:.0f} s")
    print("ended with: " + ", ".join(f"{kind}: {n}" for kind, n in total.kinds.most_common()))
    print(f"broken: {len(total.broken)}")
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
