"""Segments of 16- and 32-bit programs that are not flat: one local descriptor table, the host's
and the guest's."""
from __future__ import annotations

from dataclasses import dataclass

from tests.differential.layout import CODE, DATA, SMC, STACK

# Bits 16 to 31 of ESP at the start of a program with a 16-bit stack (native.c).
STACK_HIGH = 0x7FFE
_M32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A descriptor of privilege 3 (SDM 3A 3.4.5); `pages` counts a limit in pages, less one."""

    name: str
    base: int
    size_limit: int = 0xFFFF
    code: bool = False
    big: bool = False          # D or B
    expand_down: bool = False
    plain: bool = True         # a code segment can be read, a data segment written
    pages: int = 0
    present: bool = True

    @property
    def limit(self) -> int:
        """The last offset, in bytes (of an expand-down segment: the last that is outside)."""
        return self.pages << 12 | 0xFFF if self.pages else self.size_limit

    @property
    def rights(self) -> int:
        """Return bytes 5 and 6 of the descriptor, as the processor keeps them."""
        kind = 0x71 | self.present << 7 | self.code << 3 | self.plain << 1
        kind |= self.expand_down << 2
        return kind | self.big << 14 | (self.pages > 0) << 15

    @property
    def descriptor(self) -> bytes:
        """The eight bytes of the table's entry."""
        limit = self.pages or self.size_limit
        return (limit & 0xFFFF | (self.base & 0xFFFFFF) << 16 | (self.rights & 0xFF) << 40
                | (limit >> 16) << 48 | (self.rights >> 12) << 52
                | self.base >> 24 << 56).to_bytes(8, "little")

    @property
    def linux_flags(self) -> int:
        """The bit fields of Linux's struct user_desc."""
        contents = 2 * self.code + self.expand_down
        return (self.big | contents << 1 | (not self.plain) << 3 | (self.pages > 0) << 4
                | (not self.present) << 5)

    def holds(self, offset: int, size: int = 1) -> bool:
        """Whether all bytes from an offset are inside."""
        last = offset + size - 1
        if self.expand_down:
            return offset > self.limit and last <= (_M32 if self.big else 0xFFFF)
        return last <= self.limit


# The data area (four pages, two unmapped ones, and one that is read-only) and the stack (four
# pages) are seen in the middle of 64 KiB, at their end, and about each limit.
TABLE = (
    Segment("code16", CODE.linear, code=True),
    Segment("smc16", SMC.linear, code=True),
    Segment("code32", CODE.linear, CODE.size + 0xFFF, code=True, big=True),
    Segment("smc32", SMC.linear, SMC.size + 0xFFF, code=True, big=True),
    Segment("data16", DATA.linear - 0x4000),
    Segment("high16", DATA.linear - 0xD000),
    Segment("stack16", STACK.linear - 0x8000),
    Segment("top16", STACK.end - 0x10000),
    Segment("stack32", STACK.linear - 0x1000, 0x4FFF, big=True),
    Segment("down16", DATA.linear - 0xA000, 0xA7FF, expand_down=True),
    Segment("down32", DATA.linear - 0x4000, 0x47FF, expand_down=True, big=True),
    Segment("small", DATA.linear, 0xFFE, big=True),
    Segment("shown", DATA.linear, 0x6FFF, plain=False),
    Segment("hidden16", CODE.linear, code=True, plain=False),
    Segment("downstack16", STACK.linear - 0x8000, 0x87FF, expand_down=True),
    Segment("whole", 0, pages=0xFFFFF, big=True),
    Segment("moved", DATA.linear - 0x1234_5678, pages=0xFFFFF, big=True),
    Segment("half", 0, pages=0x2FFFF, big=True),
    Segment("absent", DATA.linear, present=False),
    Segment("absent code", CODE.linear, code=True, present=False),
    Segment("whole code", 0, pages=0xFFFFF, code=True, big=True),
    Segment("other16", CODE.linear, code=True),
    Segment("other32", CODE.linear, CODE.size - 1, code=True, big=True),
)
# Linux's own, of its global table, are flat.
_LINUX = {"flat": (Segment("flat", 0, pages=0xFFFFF, big=True), 0x2B),
          "flat code": (Segment("flat code", 0, pages=0xFFFFF, big=True, code=True), 0x23)}
SELECTOR = {s.name: i << 3 | 7 for i, s in enumerate(TABLE)} \
    | {name: selector for name, (_, selector) in _LINUX.items()}
NAMED = {s.name: s for s in TABLE} | {name: s for name, (s, _) in _LINUX.items()}


def segment_of(selector: int) -> Segment | None:
    """Return the segment that a selector names, or None if it is not of this table."""
    return TABLE[selector >> 3] if selector & 4 else None


def base_of(selector: int) -> int:
    """Return the base of the segment that a selector names; all others begin at 0."""
    segment = segment_of(selector)
    return segment.base if segment else 0
