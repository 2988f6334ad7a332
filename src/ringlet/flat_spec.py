"""Reads --flat: in which mode a flat image starts, and where."""

import re
from dataclasses import dataclass
from typing import Final

from ringlet.errors import ConfigError

_FLAT: Final = re.compile(r"(16|32|64)@(.+)", re.DOTALL)
_SEGMENTED: Final = re.compile(r"([0-9A-Fa-f]{1,4})h?:([0-9A-Fa-f]{1,4})h?", re.ASCII)
_ADDRESS: Final = re.compile(
    r"0[xX][0-9A-Fa-f]{1,16}|[0-9]{1,20}[kKmMgG]?|[0-9][0-9A-Fa-f]{0,16}[hH]", re.ASCII
)
_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_REACH: Final = {16: 1 << 20, 32: 1 << 32, 64: 1 << 64}
"""The end of what each mode can address at its start."""


@dataclass(frozen=True, slots=True)
class FlatPlace:
    """The place of a flat image: `bits` is 16, 32 or 64, and `segment` is CS in mode 16.

    The image is loaded at physical address `segment` * 16 + `offset` and entered there.
    """

    bits: int
    segment: int
    offset: int

    @property
    def address(self) -> int:
        """The guest physical address of the image's first byte."""
        return self.segment * 16 + self.offset


def parse_flat(text: str, name: str) -> FlatPlace:
    """Return the place that `text` ("16@07C0:0000", "16@0x7c00", "32@1M") stands for.

    An address of mode 16 below 64 KiB gets the segment 0, as firmware starts a boot sector, and a
    higher one the segment of its 64 KiB.  Raises ConfigError, which calls the option `name`.
    """
    form = "give 16@SEGMENT:OFFSET, 16@ADDRESS, 32@ADDRESS or 64@ADDRESS, such as 16@0x7c00"
    found = _FLAT.fullmatch(text)
    if found is None:
        raise ConfigError(f"{name} {text[:40]!r}: not a mode and an address; {form}")
    bits, place = int(found[1]), found[2]
    segmented = _SEGMENTED.fullmatch(place)
    if segmented is not None and bits == 16:
        return FlatPlace(bits, int(segmented[1], 16), int(segmented[2], 16))
    if _ADDRESS.fullmatch(place) is None:
        raise ConfigError(f"{name} {text[:40]!r}: not an address; {form}")
    if place[-1] in "hH":
        address = int(place[:-1], 16)
    elif unit := _UNITS.get(place[-1].lower()):
        address = int(place[:-1]) * unit
    else:
        address = int(place, 16 if place[:2].lower() == "0x" else 10)
    if address >= _REACH[bits]:
        raise ConfigError(
            f"{name} {text[:40]}: code of {bits} bits starts below {_REACH[bits]:#x}; give a lower "
            "address"
        )
    if bits == 16:
        return FlatPlace(bits, (address & 0xF0000) >> 4, address & 0xFFFF)
    return FlatPlace(bits, 0, address)
