"""The memory layout of test programs, the same in the host process and in the guest.

Every page lives once in an *image* (one run of bytes: the native runner's shared file, the guest's
physical memory) and is mapped at its linear address, the same natively and in the guest.
"""
from __future__ import annotations

import random
import struct
from dataclasses import dataclass

PAGE = 4096

READ = 1
WRITE = 2
EXEC = 4


@dataclass(frozen=True, slots=True)
class Area:
    """A run of pages: `linear` address, number of `pages`, READ | WRITE | EXEC."""

    name: str
    linear: int
    pages: int
    prot: int
    offset: int  # of its first byte in the image

    @property
    def size(self) -> int:
        return self.pages * PAGE

    @property
    def end(self) -> int:
        return self.linear + self.size

    def __contains__(self, linear: object) -> bool:
        return isinstance(linear, int) and self.linear <= linear < self.end


def _lay(*rows: tuple[str, int, int, int]) -> dict[str, Area]:
    areas: dict[str, Area] = {}
    offset = 0
    for name, linear, pages, prot in rows:
        areas[name] = Area(name, linear, pages, prot, offset)
        offset += pages * PAGE
    return areas


# Every area has unmapped pages before and after it, except where two areas are adjacent.
AREAS = _lay(
    ("code", 0x1000_0000, 2, READ | EXEC),
    ("smc", 0x1100_0000, 2, READ | WRITE | EXEC),  # for programs that write their own code
    ("data", 0x2000_0000, 4, READ | WRITE),
    ("ro", 0x2000_6000, 1, READ),
    ("stack", 0x3000_0000, 4, READ | WRITE),
    ("edge32", 0xFFFF_F000, 1, READ | WRITE),  # the last page that a 67h address reaches
    ("gib4", 0x4_FFFF_F000, 2, READ | WRITE),  # crosses a 4-GiB boundary
    ("slot", 0x2F_FFFF_F000, 2, READ | WRITE),  # crosses a 64-GiB boundary
    ("top", 0x7FFF_FFFF_E000, 1, READ | WRITE),  # the last page a Linux process may have
)
IMAGE_SIZE = sum(area.size for area in AREAS.values())

CODE = AREAS["code"]
SMC = AREAS["smc"]
DATA = AREAS["data"]
RO = AREAS["ro"]
STACK = AREAS["stack"]

# Not mapped natively (user half, and the hole that Linux leaves below its direct map).
HOLES = (0x2000_4000, 0x2000_5000, 0x1FFF_F000, 0x2FFF_F000, 0x3000_4000, 0x6_0000_0000,
         0x40_0000_0000, 0x0000_7FFF_FFFF_F000, 0xFFFF_8000_0000_0000, 0xFFFF_8123_4567_8000)
NON_CANONICAL = (0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_FFF8, 0x8000_0000_0000_0000,
                 0xC000_7FFD_2000_0000, 0x0010_0000_2000_0000, 0x0001_0000_2000_0000,
                 0xFFF0_0000_2000_0000, 0x7FF0_0000_0000_0010)


def area_at(linear: int) -> Area | None:
    """Return the area that contains this linear address, or None."""
    for area in AREAS.values():
        if linear in area:
            return area
    return None


def image_offset(linear: int) -> int:
    """Return the image offset of a mapped linear address; ValueError for any other."""
    area = area_at(linear)
    if area is None:
        raise ValueError(f"{linear:#x} is in no area")
    return area.offset + linear - area.linear


_FLOATS = (0.0, -0.0, 1.0, -1.5, 3.25e10, 1e-310, float("inf"), float("-inf"), float("nan"), 0.1)


def _make_image() -> bytes:
    rng = random.Random(0x5265)
    words = bytearray()
    while len(words) < IMAGE_SIZE:
        kind = rng.randrange(8)
        if kind < 3:
            words += rng.getrandbits(64).to_bytes(8, "little")
        elif kind == 3:
            words += struct.pack("<d", rng.choice(_FLOATS))
        elif kind == 4:
            words += struct.pack("<ff", rng.choice(_FLOATS[:5]), rng.uniform(-100, 100))
        elif kind == 5:
            words += struct.pack("<q", rng.randrange(-200, 200))
        elif kind == 6:
            words += bytes(8)
        else:
            words += struct.pack("<Q", DATA.linear + rng.randrange(DATA.size))
    for area in AREAS.values():
        if area.prot & EXEC:
            words[area.offset:area.offset + area.size] = b"\xcc" * area.size
    return bytes(words)


# The contents of memory before a program's own patches, which include its code.
BASE_IMAGE = _make_image()


def changed_pages(image: bytes) -> dict[int, bytes]:
    """The pages of an image that differ from the base image, by number."""
    out = {}
    for page in range(IMAGE_SIZE // PAGE):
        now = image[page * PAGE:(page + 1) * PAGE]
        if now != BASE_IMAGE[page * PAGE:(page + 1) * PAGE]:
            out[page] = now
    return out
