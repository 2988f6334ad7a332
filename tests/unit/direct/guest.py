"""A direct process with code of a test in it, and no virtual processor."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from ringlet.direct.process import CONTROL, END, RAM, STUB, DirectProcess
from ringlet.direct.zygote import Zygote

PAGE = 4096
CODE = 0x10000
DATA = 0x20000
MMAP, MPROTECT, MUNMAP = 9, 10, 11
READ, WRITE, EXECUTE = 1, 2, 4
SHARED_FIXED = 0x11

R8, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, FLAGS = 0, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
SELECTORS, ERROR, TRAP, CR2 = 18, 19, 20, 22
USER_SELECTORS = 0x33 | 0x2B << 48
SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGURG, SIGSYS = 4, 5, 7, 8, 11, 23, 31
PAGE_FAULT, PROTECTION = 14, 13


@dataclass
class DirectGuest:
    """One page of code at CODE and one of data at DATA, which is writable."""

    zygote: Zygote
    code: bytes
    process: DirectProcess = field(init=False)
    ram: int = field(init=False)

    def __post_init__(self) -> None:
        self.ram = os.memfd_create("ringlet-test", os.MFD_CLOEXEC)
        os.ftruncate(self.ram, 2 * PAGE)
        os.pwrite(self.ram, self.code, 0)
        self.process = self.zygote.make([self.ram])
        self.process.begin()
        for at, rights, offset in ((CODE, READ | EXECUTE, 0), (DATA, READ | WRITE, PAGE)):
            self.process.command(MMAP, at, PAGE, rights, SHARED_FIXED, RAM, offset)
        self.process.set(RIP, CODE)
        self.process.set(RSP, DATA + PAGE - 256)

    def hands_over(self, patience: float = 5) -> bool:
        """Let it go on until its next hand-over; False: it ended.  It is stopped in the end."""
        timer = threading.Timer(patience, self.process.kill, [SIGURG])
        timer.start()
        self.process.resume()
        stopped = self.process.wait()
        timer.cancel()
        return stopped

    def go(self) -> int:
        """Do the same, and return the signal that stopped it."""
        assert self.hands_over()
        assert self.process.frame()
        return self.process.signal

    def memory(self) -> set[tuple[int, int, str]]:
        """What is mapped in the lower half: first and last address, and rights."""
        found = set()
        for line in Path(f"/proc/{self.process.pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            first, last = (int(end, 16) for end in span.split("-"))
            if not first >> 63:  # the kernel's vsyscall page is in every process
                found.add((first, last, rights))
        return found

    def files(self) -> set[int]:
        """The file descriptors of the process."""
        return {int(file.name) for file in Path(f"/proc/{self.process.pid}/fd").iterdir()}

    def own_memory(self) -> set[tuple[int, int, str]]:
        """What `memory` is when nothing has changed."""
        return {
            (STUB, STUB + PAGE, "r-xp"),
            (CONTROL, END, "rw-s"),
            (CODE, CODE + PAGE, "r-xs"),
            (DATA, DATA + PAGE, "rw-s"),
        }

    def close(self) -> None:
        os.close(self.ram)


def move(register: int, value: int) -> bytes:
    """MOV r64, imm64; the number is the processor's (0: RAX, 1: RCX, ...)."""
    return bytes([0x48 | register >> 3, 0xB8 | register & 7]) + (value % (1 << 64)).to_bytes(
        8, "little"
    )


def store(address: int, value: int) -> bytes:
    """Code that writes eight bytes."""
    return move(0, value) + move(1, address) + b"\x48\x89\x01"
