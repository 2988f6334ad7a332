"""Programs that enter the stub's hand-over themselves, with EFLAGS.TF set."""

from __future__ import annotations

from ringlet.direct.process import CONTROL, STACK
from ringlet.direct.zygote import PROGRAM, symbols
from tests.unit.direct.guest import RIP, SELECTORS, SIGSEGV, USER_SELECTORS, move, store

HAND_OVER = symbols(PROGRAM)["hand_over"]
SYSCALL = b"\x0f\x05"
FRAME = STACK + 0x4000
VECTORS = STACK + 0x2000
"""Where the virtual processor leaves the vector state."""
XSAVE = 23
_GETPPID, _MOV_EAX = 110, 5
_REGISTERS = FRAME + 48


def stepping_hand_over(code: int, stack: int, signal: int = SIGSEGV) -> bytes:
    """Return code for the address `code` that says it was stopped at its end by a signal.

    IRETQ goes to the hand-over's SYSCALL and sets TF, so that the stub traps when it knows the
    secret.  At the end is a SYSCALL.
    """

    def to(end: int) -> bytes:
        return (
            # PUSH and POP fault on the stack before anything is forged.
            move(4, stack) + b"\x50\x58"
            + store(CONTROL, signal) + store(CONTROL + 24, FRAME)
            + store(_REGISTERS + 8 * RIP, end)
            + store(_REGISTERS + 8 * SELECTORS, USER_SELECTORS)
            + store(_REGISTERS + 8 * XSAVE, VECTORS)
            + move(11, HAND_OVER + _MOV_EAX) + move(0, _GETPPID)
            # PUSH SS, RSP, RFLAGS with TF and IF, CS, RIP; IRETQ
            + bytes.fromhex("6a2b 54 6802030000 6a33 4153 48cf")
        )  # fmt: skip

    return to(code + len(to(code))) + SYSCALL
