"""Measures how soon a virtual processor stops while a direct process runs a loop.

`python -m tests.unit.direct.stops` asks two thousand times, at chance moments, and prints how long
it took until `run` returned: from the request in one thread to the return in another.  Python's own
hand-over between threads is in it, so that the figure for translated code stands beside it, and how
long a byte takes to another process and back: the host wakes two processes for it.
"""

from __future__ import annotations

import argparse
import os
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


def echoes(count: int) -> list[float]:
    """Send a byte to another process and back at chance moments; return the times, sorted."""
    found: list[float] = []
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(there[1])
        while byte := os.read(there[0], 1):
            os.write(back[1], byte)
        os._exit(0)
    for _ in range(count):
        time.sleep(random.uniform(0.0005, 0.002))
        start = time.perf_counter()
        os.write(there[1], b".")
        os.read(back[0], 1)
        found.append((time.perf_counter() - start) * 1e6)
    for end in (*there, *back):
        os.close(end)
    os.waitpid(child, 0)
    return sorted(found)


def show(name: str, found: list[float], goal: str = "") -> None:
    """Print three percentiles and the maximum."""
    part = ", ".join(f"{p} %: {found[len(found) * p // 100]:.1f}" for p in (50, 90, 99))
    print(f"{name}: {part}, most: {found[-1]:.1f} us{goal}")


def main() -> None:
    """Print the times of both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    count = parser.parse_args().count
    show("a byte to a process and back", echoes(count))
    direct = DirectBoard(Zygote())
    direct.place(LOOP)
    direct.enter(3)
    translated = Board(3)
    translated.place(LOOP)
    for name, board in (("direct", direct), ("translated", translated)):
        show(name, times(board, count), f" (goal: 99 % in {GOAL:.0f} us)")
    print(f"{direct.count('runs')} runs in the direct process")


if __name__ == "__main__":
    main()
