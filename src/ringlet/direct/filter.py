"""The seccomp filter of a direct process: which system calls pass, and from which instruction.

A call is known by the address of the instruction after it.  Guest code can jump to any of these
instructions, so those that change the process must carry a secret too.  It is in the upper halves
of the fourth and fifth argument, which Linux ignores in these calls.
"""

import struct
from dataclasses import dataclass
from typing import Final

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
_EQUAL, _AT_LEAST = 0x15, 0x35  # BPF_JMP|JEQ|K, BPF_JMP|JGE|K
_TRAP, _NOTIFY, _ALLOW = 0x00030000, 0x7FC00000, 0x7FFF0000
_X86_64: Final = 0xC000003E

_NUMBER, _ARCH, _IP_LOW, _IP_HIGH, _ARGUMENTS = 0, 4, 8, 12, 16  # struct seccomp_data

MMAP, MPROTECT, MUNMAP, SIGRETURN, SENDMSG, CLOSE_RANGE = 9, 10, 11, 15, 46, 436
_SHARED_FIXED, _POPULATE = 0x11, 0x8000


@dataclass(frozen=True, slots=True)
class Places:
    """Where the stub's system calls return to."""

    told: int
    called: int
    returned: int
    sent: int


@dataclass(frozen=True, slots=True)
class _Jump:
    code: int
    value: int
    yes: str = ""
    no: str = ""


class _Program:
    """Filter instructions with named targets; "" is the next one."""

    def __init__(self) -> None:
        self._rows: list[_Jump] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._rows)

    def load(self, offset: int) -> None:
        self._rows.append(_Jump(_LOAD, offset))

    def mask(self, value: int) -> None:
        self._rows.append(_Jump(_AND, value & 0xFFFFFFFF))

    def equal(self, value: int, yes: str = "", no: str = "trap") -> None:
        self._rows.append(_Jump(_EQUAL, value & 0xFFFFFFFF, yes, no))

    def at_least(self, value: int, yes: str, no: str) -> None:
        self._rows.append(_Jump(_AT_LEAST, value, yes, no))

    def end(self, name: str, verdict: int) -> None:
        self.label(name)
        self._rows.append(_Jump(_RETURN, verdict))

    def bytes(self) -> bytes:
        def distance(at: int, name: str) -> int:
            return self._labels[name] - at - 1 if name else 0

        return b"".join(
            struct.pack("<HBBI", row.code, distance(at, row.yes), distance(at, row.no), row.value)
            for at, row in enumerate(self._rows)
        )


def _argument(number: int) -> int:
    return _ARGUMENTS + 8 * number


def program(places: Places, secret: int, first_ram: int, ram_files: int, socket: int) -> bytes:
    """The filter's instructions, as an array of struct sock_filter."""
    p = _Program()
    p.load(_ARCH)
    p.equal(_X86_64)
    p.load(_IP_HIGH)
    p.equal(places.told >> 32)
    p.load(_IP_LOW)
    p.equal(places.told, "notify", "")
    p.equal(places.called, "called", "")
    p.equal(places.returned, "returned", "")
    p.equal(places.sent, "", "trap")
    p.load(_NUMBER)
    p.equal(SENDMSG)
    p.load(_argument(0))
    p.equal(socket, "allow", "trap")
    p.label("returned")
    p.load(_NUMBER)
    p.equal(SIGRETURN, "secret", "trap")
    p.label("called")
    p.load(_NUMBER)
    for number in (MUNMAP, MPROTECT, CLOSE_RANGE):
        p.equal(number, "secret", "")
    p.equal(MMAP)
    p.load(_argument(3))
    p.mask(~_POPULATE)
    p.equal(_SHARED_FIXED)
    p.load(_argument(4))
    p.at_least(first_ram, "", "trap")
    p.at_least(first_ram + ram_files, "trap", "")
    p.label("secret")
    p.load(_argument(3) + 4)
    p.equal(secret)
    p.load(_argument(4) + 4)
    p.equal(secret >> 32)
    p.end("allow", _ALLOW)
    p.end("notify", _NOTIFY)
    p.end("trap", _TRAP)
    return p.bytes()
