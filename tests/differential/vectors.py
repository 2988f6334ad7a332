"""Vector and x87 register contents for programs."""
from __future__ import annotations

import functools
import random
import struct
from collections.abc import Mapping

from tests.differential import xsave

_F32 = (0, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
        0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x4B000000, 0x4F000000, 0xCF000000,
        0x40490FDB, 0x3F000000, 0x3EFFFFFF)
_F64 = (0, 1 << 63, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FF0000000000000,
        0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001, 1, 0x000FFFFFFFFFFFFF,
        0x0010000000000000, 0x7FEFFFFFFFFFFFFF, 0x41DFFFFFFFC00000, 0x41E0000000000000,
        0x43E0000000000000, 0x400921FB54442D18, 0x3FE0000000000000)
_ST = (b"\0" * 10, struct.pack("<QH", 1 << 63, 0x3FFF), struct.pack("<QH", 1 << 63, 0xBFFF),
       struct.pack("<QH", 0xC90FDAA22168C235, 0x4000), struct.pack("<QH", 1 << 63, 0x7FFF),
       struct.pack("<QH", 0xC000000000000000, 0x7FFF), struct.pack("<QH", 1, 0),
       struct.pack("<QH", 0xFFFFFFFFFFFFFFFF, 0x7FFE),
       struct.pack("<QH", 0x1234567812345678, 0x4005))


def _chunk(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        return struct.pack("<4I", *rng.choices(_F32, k=4))
    if kind == 1:
        return struct.pack("<2Q", *rng.choices(_F64, k=2))
    if kind == 2:
        return struct.pack("<4f", *(rng.uniform(-1000, 1000) for _ in range(4)))
    if kind == 3:
        return struct.pack("<2d", *(rng.uniform(-1e6, 1e6) for _ in range(2)))
    if kind == 4:
        return bytes(rng.choice((0, 0x80, 0xFF, 0x7F, 1, 15, 16)) for _ in range(16))
    return rng.randbytes(16)


@functools.cache
def _pool() -> tuple[bytes, ...]:
    rng = random.Random(0x79)
    return tuple(_chunk(rng) + _chunk(rng) for _ in range(256))


def random_image(rng: random.Random, given: Mapping[int, bytes]) -> bytes:
    """An XSAVE image of interesting values; `given` registers hold what addresses need."""
    ymm = rng.choices(_pool(), k=16)
    for number, value in given.items():
        ymm[number] = value
    mxcsr = xsave.DEFAULT_MXCSR
    fcw = xsave.DEFAULT_FCW
    fsw = ftw = 0
    kind = rng.randrange(10)
    if kind < 2:  # rounding, FTZ, DAZ
        mxcsr |= rng.getrandbits(3) << 13 | rng.getrandbits(1) << 6
    elif kind == 2:  # sticky flags set, one exception unmasked
        mxcsr = (mxcsr | rng.getrandbits(6)) & ~(0x80 << rng.randrange(6))
        mxcsr &= ~(mxcsr >> 7 & 0x3F ^ 0x3F)
    elif kind < 6:
        fcw = 0x37F & ~(3 << 8) & ~(3 << 10) | rng.choice((0, 2, 3)) << 8 | rng.getrandbits(2) << 10
        ftw = rng.getrandbits(8)
        fsw = rng.getrandbits(3) << 11 | rng.getrandbits(4) << 8 & 0x4700
    st = rng.choices(_ST, k=8)
    return xsave.make(ymm, mxcsr=mxcsr, fcw=fcw, fsw=fsw, ftw=ftw, st=st)
