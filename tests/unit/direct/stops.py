"""Measures how soon a virtual processor stops while a direct process runs a loop.

`python -m tests.unit.direct.stops` asks two thousand times, at chance moments, and prints how long
it took until `run` returned: from the request in one thread to the return in another.  Python's own
hand-over between threads is in it, so that the figure for translated code stands beside it.
"""

from __future__ import annotations

import argparse
import random
import threading
import time

from ringlet.core.state import Exit
from ringlet.direct.zygote import Zygote
from tests.unit.direct.board import DirectBoard
from tests.unit.vcpu.board import Board

LOOP = b"\xeb\xfe"
GOAL = 50.0
"""Microseconds for 99 of 100 stops, on a host that does nothing else."""


def times(board: Board, count: int) -> list[float]:
    """Stop the loop of a board again and again; return the times in microseconds, sorted."""
    found: list[float] = []
    asked = threading.Event()
    returned = threading.Event()
    at = [0.0, 0.0]

    def run() -> None:
        for _ in range(count):
            asked.wait()
            asked.clear()
            kind = board.go()
            at[1] = time.perf_counter()
            assert kind == Exit.EXIT_INTERRUPTED
            returned.set()

    runner = threading.Thread(target=run)
    runner.start()
    for _ in range(count):
        asked.set()
        time.sleep(random.uniform(0.0005, 0.002))
        at[0] = time.perf_counter()
        board.p.kick()
        returned.wait()
        returned.clear()
        found.append((at[1] - at[0]) * 1e6)
    runner.join()
    return sorted(found)


def main() -> None:
    """Print the times of both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    count = parser.parse_args().count
    direct = DirectBoard(Zygote())
    direct.place(LOOP)
    direct.enter(3)
    translated = Board(3)
    translated.place(LOOP)
    for name, board in (("direct", direct), ("translated", translated)):
        found = times(board, count)
        part = ", ".join(f"{p} %: {found[count * p // 100]:.1f}" for p in (50, 90, 99))
        print(f"{name}: {part}, most: {found[-1]:.1f} us (goal: 99 % in {GOAL:.0f} us)")
    print(f"{direct.count('runs')} runs in the direct process")


if __name__ == "__main__":
    main()
