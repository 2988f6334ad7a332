"""The standard-format XSAVE image of x87 | SSE | AVX: 832 bytes (SDM vol. 1, 13.4)."""
from __future__ import annotations

import struct
from collections.abc import Sequence

SIZE = 832
X87, SSE, AVX = 1, 2, 4
DEFAULT_FCW = 0x37F
DEFAULT_MXCSR = 0x1F80
_MXCSR_MASK = 0xFFFF
_HEADER = 512
_YMM_HIGH = 576


def make(ymm: Sequence[bytes], *, mxcsr: int = DEFAULT_MXCSR, fcw: int = DEFAULT_FCW,
         fsw: int = 0, ftw: int = 0, st: Sequence[bytes] = ()) -> bytes:
    """An image that loads 16 registers of 32 bytes, and the x87 (`ftw` abridged, `st` 10 bytes)."""
    image = bytearray(SIZE)
    struct.pack_into("<HHBxH", image, 0, fcw, fsw, ftw, 0)
    struct.pack_into("<II", image, 24, mxcsr, _MXCSR_MASK)
    for i, value in enumerate(st):
        image[32 + 16 * i:42 + 16 * i] = value
    image[160:416] = b"".join([v[:16] for v in ymm])
    image[_YMM_HIGH:] = b"".join([v[16:] for v in ymm])
    struct.pack_into("<Q", image, _HEADER, X87 | SSE | AVX)
    return bytes(image)


INIT = make([bytes(32)] * 16)


def canonical(image: bytes) -> bytes:
    """The image with what is not architectural state made equal.

    Components in their initial state are written out.  FOP, FIP and FDP are cleared: processors
    disagree on when they are kept (AMD: only for an unmasked exception), and the host's copy may
    hold a host address.  The bytes above each ST register and those for software are padding.
    """
    present = struct.unpack_from("<Q", image, _HEADER)[0]
    out = bytearray(image)
    if not present & X87:
        out[:24] = INIT[:24]
        out[32:160] = INIT[32:160]
    if not present & SSE:
        out[160:416] = bytes(256)
    if not present & AVX:
        out[_YMM_HIGH:] = bytes(256)
    out[5:24] = bytes(19)
    out[28:32] = bytes(4)
    for i in range(8):
        out[42 + 16 * i:48 + 16 * i] = bytes(6)
    out[416:_YMM_HIGH] = bytes(160)
    return bytes(out)


def ymm(image: bytes, i: int) -> bytes:
    """Register YMM `i` of a canonical image."""
    return image[160 + 16 * i:176 + 16 * i] + image[_YMM_HIGH + 16 * i:_YMM_HIGH + 16 + 16 * i]


def fields(image: bytes) -> dict[str, str]:
    """A canonical image as names and values, for reports and corpus files."""
    fcw, fsw, ftw = struct.unpack_from("<HHB", image, 0)
    out = {"fcw": f"{fcw:#x}", "fsw": f"{fsw:#x}", "ftw": f"{ftw:#x}",
           "mxcsr": f"{struct.unpack_from('<I', image, 24)[0]:#x}"}
    for i in range(8):
        out[f"st{i}"] = image[32 + 16 * i:42 + 16 * i].hex()
    for i in range(16):
        out[f"ymm{i}"] = ymm(image, i).hex()
    return out


def from_fields(values: dict[str, str]) -> bytes:
    """The inverse of `fields`; what is not named has its initial value."""
    registers = [bytes.fromhex(values.get(f"ymm{i}", "00" * 32)) for i in range(16)]
    stack = [bytes.fromhex(values.get(f"st{i}", "00" * 10)) for i in range(8)]
    return make(registers, mxcsr=int(values.get("mxcsr", "0x1f80"), 0),
                fcw=int(values.get("fcw", "0x37f"), 0), fsw=int(values.get("fsw", "0"), 0),
                ftw=int(values.get("ftw", "0"), 0), st=stack)
