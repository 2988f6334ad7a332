"""The host's own processor for single instructions of 16- and 32-bit code (see host_narrow.c)."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.differential.native import build, spawn
from tests.unit.vcpu.narrow_board import (
    BASE,
    BREAKPOINT,
    FLAGS,
    FRAME,
    HOLE,
    READ_ONLY,
    SEGMENTS,
    SINGLE_STEP,
    SIZE,
    TF,
    UPPER_SP,
    Result,
    State,
    comparable,
    selector,
)

_PAGE = 4096
_STATE = struct.Struct("<10Q6H")
_XSAVE, _EVENT, _LAYOUT = 128, 960, 976
_NO_LDT = 7
_SOURCE = Path(__file__).with_name("host_narrow.c")


class NoSegmentsError(Exception):
    """The host's kernel offers no LDT."""


class HostNarrow:
    """A child process that performs instructions at ring 3, each from a `State`."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("ringlet-narrow")
        os.ftruncate(self._fd, 2 * _PAGE + SIZE)
        self._shared = mmap.mmap(self._fd, 2 * _PAGE + SIZE)
        layout = struct.pack("<6I", BASE, SIZE, HOLE, READ_ONLY, FRAME, len(SEGMENTS))
        layout += b"".join(s.descriptor(i) for i, s in enumerate(SEGMENTS))
        self._shared[_LAYOUT : _LAYOUT + len(layout)] = layout
        self._child = spawn(build(_SOURCE), self._fd)
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.stdout.close()
        self._child.kill()
        self._child.wait()
        self._shared.close()
        os.close(self._fd)

    def _wait(self) -> None:
        assert self._child.stdout is not None
        if not self._child.stdout.read(1):
            status = self._child.wait()
            if status == _NO_LDT:
                raise NoSegmentsError("modify_ldt(2) is not to be had")
            raise RuntimeError(f"the host's process ended: {status}")

    def perform(self, state: State) -> Result:
        """Perform an instruction to its end, or to its exception.

        With a 16-bit stack the upper half of ESP is `UPPER_SP` at the beginning.
        """
        assert state.big_stack or state.registers[4] & 0xFFFF0000 == UPPER_SP
        flags = state.flags | (TF if state.steps else 0)
        selectors = [selector(s) for s in state.segments]
        self._shared[: _STATE.size] = _STATE.pack(*state.registers, state.eip, flags, *selectors)
        self._shared[_XSAVE : _XSAVE + 832] = state.vectors
        self._shared[_PAGE : _PAGE + SIZE] = state.image()
        assert self._child.stdin is not None
        self._child.stdin.write(b"g")
        self._wait()
        values = _STATE.unpack_from(self._shared)
        vector, error, cr2 = struct.unpack_from("<IIQ", self._shared, _EVENT)
        registers, eip = list(values[:8]), values[8]
        if not state.big_stack:
            # The upper half is what Linux's own stack pointer left there.
            registers[4] &= 0xFFFFFFFF
        if vector == BREAKPOINT and not state.steps:
            eip -= 1
        return Result(
            registers,
            values[9] & FLAGS,
            eip,
            None if vector in (BREAKPOINT, SINGLE_STEP) else (vector, error),
            cr2 if vector == 14 else 0,
            self._shared[_PAGE : _PAGE + SIZE],
            comparable(self._shared[_XSAVE : _XSAVE + 832]),
        )
