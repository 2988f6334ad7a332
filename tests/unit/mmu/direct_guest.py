"""A guest whose code of CPL 3 runs in a real direct process, without a virtual processor.

The page faults of that process are taken to the MMU, as the crossing takes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ringlet.direct.process import COMMANDS_AT, END, STUB, DirectProcess
from ringlet.direct.zygote import Zygote
from tests.unit.direct.guest import CR2, ERROR, PAGE_FAULT, RAX, RIP, SIGSEGV, SIGSYS, TRAP
from tests.unit.mmu.guest import FETCH, OK, PAGE, WRITE, Guest, P, U, W

SYSCALL = b"\x0f\x05"
MMAP, MUNMAP, SIGRETURN = 9, 11, 15
FAULTS_MAX = 40

# Linear addresses, and the frames that are mapped there at first.
CODE = 0x0000_1234_5678_9000
DATA = 0x0000_1234_5700_0000
CODE_PHYS = 8 << 20
DATA_PHYS = 9 << 20
OTHER_PHYS = 10 << 20


@dataclass(frozen=True)
class Stop:
    """Why a run ended: a signal, or an answer of the MMU to a page fault at an address."""

    signal: int = 0
    answer: int = OK
    linear: int = 0


CALLED = Stop(signal=SIGSYS)
REFUSED = -1
"""The MMU's answer where code must run translated."""


class DirectGuest(Guest):
    """A guest with a direct process attached to its address space."""

    def __init__(self, zygote: Zygote) -> None:
        super().__init__()
        self.zygote = zygote
        self.faults: list[tuple[int, int]] = []
        self.probe.cpl = 3
        self.process = self.attach()

    def attach(self) -> DirectProcess:
        """Attach a process of its own to the current address space."""
        process = self.zygote.make(self.probe.files())
        self.probe.add_process(process)
        return process

    def place(self, linear: int, phys: int, code: bytes, flags: int = P | W | U) -> int:
        """Map a page of code, and return the address of its entry."""
        assert self.probe.write_phys(phys, code.ljust(PAGE, b"\x90"))
        return self.tables.map(linear, phys, flags)

    def run(self, rip: int, process: DirectProcess | None = None) -> Stop:
        """Run to a trap that is no page fault, or to one that the MMU does not resolve."""
        process = process or self.process
        process.set(RIP, rip)
        for _ in range(FAULTS_MAX):
            process.poke(0, bytes(8))  # signal and failed
            process.resume()
            assert process.wait()
            assert process.frame()
            self.assert_nothing_is_writable_and_executable(process)
            if (process.signal, process.get(TRAP)) != (SIGSEGV, PAGE_FAULT):
                assert process.signal, "a command failed"
                return Stop(signal=process.signal)
            linear, access = process.get(CR2), process.get(ERROR) & (WRITE | FETCH)
            self.faults.append((linear, access))
            answer = self.probe.direct_fault(linear, access)
            if answer != OK:
                return Stop(answer=answer, linear=linear)
        raise AssertionError(f"page faults without end: {self.faults[-3:]}")

    def value(self, rip: int) -> int:
        """Run code to its system call, and return RAX."""
        assert self.run(rip) == CALLED
        return self.process.get(RAX)

    def commands(self) -> list[tuple[int, int, int]]:
        """Return the system calls, with their first two arguments, that the process made last."""
        memory = self.process.shared()[COMMANDS_AT:PAGE]
        calls = [struct.unpack_from("<3Q", memory, at) for at in range(0, len(memory), 64)]
        numbers = [number for number, *_ in calls]
        return calls[: numbers.index(SIGRETURN)]

    def rights(self, linear: int, process: DirectProcess | None = None) -> str:
        """Return what the process may do with a page, as /proc shows it; "": it has none."""
        for low, high, rights in maps(process or self.process):
            if low <= linear < high:
                return rights
        return ""

    def assert_nothing_is_writable_and_executable(self, process: DirectProcess) -> None:
        for _, _, rights in maps(process):
            assert not ("w" in rights and "x" in rights)


def maps(process: DirectProcess) -> list[tuple[int, int, str]]:
    """Return the mappings of guest pages in a process."""
    found = []
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        low, high = (int(end, 16) for end in span.split("-"))
        if not low >> 63 and not STUB <= low < END:
            found.append((low, high, rights))
    return found


def load(address: int) -> bytes:
    """Code that loads RAX from memory and makes a system call."""
    return b"\x48\xa1" + address.to_bytes(8, "little") + SYSCALL


def store(address: int, value: int = 0x5EED) -> bytes:
    """Code that stores to memory and makes a system call.  The bytes of `value` are not in it."""
    return (
        b"\x48\xb8" + (~value % (1 << 64)).to_bytes(8, "little") + b"\x48\xf7\xd0"
        + b"\x48\xa3" + address.to_bytes(8, "little") + SYSCALL
    )  # fmt: skip


def give(value: int) -> bytes:
    """Code that makes a system call with a number."""
    return b"\x48\xb8" + value.to_bytes(8, "little") + SYSCALL
