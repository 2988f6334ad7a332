"""Measures how fast a processor runs while a benchmark uses it.

A virtual processor shares its core with others that nothing here can see, and may run at half its
speed for seconds or minutes.  Times of one run are comparable with those of another only after each
is scaled by the speed of its processor meanwhile.
"""

import os
import threading
import time
from statistics import fmean
from types import TracebackType
from typing import Final, Self

_PERIOD_S: Final = 0.03
# About 0.2 ms of arithmetic in the first-level cache.
_BASE, _EXPONENT, _MODULUS = 3, (1 << 80) - 1, (1 << 607) - 1
_TRIES: Final = 20


class Gauge:
    """Chooses the fastest processor and samples its speed from a thread of its own.

    `with Gauge() as gauge`: the calling thread, and the processes that it starts, run on the
    processor that `choose` finds; at the end the thread may run everywhere again.  Without
    `samples` there are none, which would disturb what is measured in microseconds.
    """

    def __init__(self, *, samples: bool = True) -> None:
        self._allowed = os.sched_getaffinity(0)
        self._samples: list[tuple[int, int]] = []
        self._least = _probe()
        self._chosen = min(self._allowed)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if samples:
            self._thread = threading.Thread(target=self._sample, name="gauge", daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        os.sched_setaffinity(0, self._allowed)

    def choose(self) -> int:
        """Move the calling thread to the processor that is fastest now; return its number."""
        times = {}
        for processor in sorted(self._allowed):
            os.sched_setaffinity(0, {processor})
            times[processor] = min(_probe() for _ in range(_TRIES))
        self._chosen = min(times, key=times.__getitem__)
        self._least = min(self._least, *times.values())
        os.sched_setaffinity(0, {self._chosen})
        return self._chosen

    def pace(self, began: int, ended: int) -> float | None:
        """Return the mean speed between two times of CLOCK_MONOTONIC in ns, in probes per ns.

        None if no probe fell between them.
        """
        speeds = [1 / took for at, took in self._samples if began <= at <= ended]
        return fmean(speeds) if speeds else None

    @property
    def best(self) -> float:
        """The pace of the fastest probe so far."""
        return 1 / self._least

    def _sample(self) -> None:
        placed = None
        while not self._ended.wait(_PERIOD_S):
            if placed != self._chosen:
                placed = self._chosen
                os.sched_setaffinity(0, {placed})
            took = _probe()
            self._samples.append((time.monotonic_ns(), took))
            self._least = min(self._least, took)


def _probe() -> int:
    """Return the ns of processor time that a fixed amount of arithmetic takes."""
    began = time.thread_time_ns()
    pow(_BASE, _EXPONENT, _MODULUS)
    return time.thread_time_ns() - began
