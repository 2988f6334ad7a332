"""The direct processes of a machine, each made before it is needed."""

from typing import Final

from ringlet.direct.process import DirectProcess, cpuid_faults
from ringlet.direct.zygote import Zygote

LIMIT: Final = 24
"""Processes of a virtual processor.  Address spaces share them, the longest unused giving way."""


class ProcessPool:
    """Makes direct processes for guest RAM; each is ready when it is asked for.

    Raises OSError if the host allows none.
    """

    limit = LIMIT

    def __init__(self) -> None:
        self._zygote = Zygote()
        self._cpuid_faults = cpuid_faults()
        self._spare: DirectProcess | None = None
        self._spare_ram: list[int] = []

    def __call__(self, ram: list[int]) -> DirectProcess:
        """Return a process that has the files `ram`, in this order.  Raises OSError."""
        process = self._spare if self._spare_ram == ram else None
        self._spare = None
        return process or self._make(ram)

    def prepare(self, ram: list[int]) -> None:
        """Make the next process ahead.  Raises OSError."""
        self._spare, self._spare_ram = self._make(ram), ram

    def _make(self, ram: list[int]) -> DirectProcess:
        return self._zygote.make(ram, cpuid_faults=self._cpuid_faults)
