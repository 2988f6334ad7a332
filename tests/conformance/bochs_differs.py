"""Where Bochs 2.7 and Ringlet differ in 16- and 32-bit code, and why.

A name, title or result may be a shell pattern.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

_LINE = "checks the limit of CS only where a line of up to 32 instructions begins (SDM 3A 5.3)"
_BOTH = "VIF and VIP raise #GP with IOPL 3, too (SDM 3A 20.3.2: the mechanism of IOPL < 3)"

CHECKS: dict[str, str] = {
    "pusha.v86.odd-sp*": "#SS in virtual-8086 mode (SDM 2B PUSHA: #GP(0))",
    "int.order.room0": "checks the handler's EIP before the room on its stack (SDM 2A INT n)",
    "line.*": _LINE,
    "rewritten.wrong": _LINE,
    "task.after.cs-rpl": "checks SS before CS; models of processors differ in it (SDM 3A 7.3)",
    "both.vme1.iopl3": _BOTH,
    "both.pvi1.iopl3.cpl3": _BOTH,
}
"""Checks of `tests/guests/narrow` that fail on Bochs."""

LINES: dict[str, tuple[str, ...]] = {
    # A far pointer at FFFEh wraps around to 0 (SDM 2A CALL: #GP).
    "real16": ("far call at FFFEh",),
}
"""Lines that a system of `tests/guests/systems` prints otherwise, by their beginnings."""


class Known(NamedTuple):
    """Results of `tests/guests/tables` that differ."""

    title: str
    bochs: str
    ringlet: str
    why: str


TABLES = (
    # Table 7-1 of SDM 3A has #NP, then #TS; the order is that of some processors.
    Known("task?? ds* p0", "a.60,*", "b.60,*", "checks DPL of DS in a new task before P"),
    Known("ss-iret * p0 *", "b.60,*", "c.60,*", "#NP for an absent SS (SDM 2A IRET: #SS)"),
)


def known_difference(check: str) -> str | None:
    """Return how Bochs differs in `check`, or None if it should pass."""
    return next((why for name, why in CHECKS.items() if fnmatchcase(check, name)), None)


def known_result(title: str, bochs: str, ringlet: str) -> str | None:
    """Return why a result differs, or None if it should not."""
    got = (title, bochs, ringlet)
    return next((known.why for known in TABLES if all(map(fnmatchcase, got, known[:3]))), None)
