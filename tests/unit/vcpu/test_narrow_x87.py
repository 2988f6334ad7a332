"""Images of the floating-point state outside 64-bit mode: layouts, and limits of their segments."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import DATA, EMU_FAULT, EMU_NEXT, GP, NM, UD, Mode, Narrow

PARAGRAPHS = pytest.mark.parametrize("mode", [Mode.REAL, Mode.V86])
FIP, FDP = 0x12345678, 0x9ABCDEF0
OPCODE = 0x123


@PARAGRAPHS
def test_environment_of_28_bytes_splits_its_pointers(mode: Mode) -> None:
    b = Narrow(mode)
    image = struct.pack(
        "<7I", 0x37E, 0xB881, 0xFFFF,
        0xFFFF0000 | FIP & 0xFFFF, FIP >> 16 << 12 | OPCODE,
        0xFFFF0000 | FDP & 0xFFFF, FDP >> 16 << 12,
    )  # fmt: skip
    b.p.write_phys(DATA + 0x10, image)
    assert b.run(Op.OP_FLDENV, ea=0x10, size=4) == EMU_NEXT
    assert b.run(Op.OP_FNSTENV, ea=0x100, size=4) == EMU_NEXT
    stored = b.words(DATA + 0x100, 7, 4)
    assert stored[3:] == [*struct.unpack("<7I", image)[3:]]


@PARAGRAPHS
def test_environment_of_14_bytes_has_16_bits_of_each_pointer(mode: Mode) -> None:
    b = Narrow(mode)
    b.p.write_phys(DATA + 0x10, struct.pack("<7H", 0x37E, 0xB881, 0xFFFF, 0x5678, 0, 0xDEF0, 0))
    assert b.run(Op.OP_FLDENV, ea=0x10, size=2) == EMU_NEXT
    assert b.run(Op.OP_FNSTENV, ea=0x100, size=2) == EMU_NEXT
    assert b.words(DATA + 0x100, 7, 2) == [0x37E, 0xB881, 0xFFFF, 0x5678, 0, 0xDEF0, 0]


SIZES = [
    (Op.OP_FXSAVE, 4, 512),
    (Op.OP_FXRSTOR, 4, 512),
    (Op.OP_FNSTENV, 2, 14),
    (Op.OP_FNSTENV, 4, 28),
    (Op.OP_FLDENV, 4, 28),
    (Op.OP_FNSAVE, 2, 94),
    (Op.OP_FNSAVE, 4, 108),
    (Op.OP_FRSTOR, 4, 108),
]


@pytest.mark.parametrize(("op", "size", "length"), SIZES)
def test_image_must_be_within_its_segment(op: int, size: int, length: int) -> None:
    b = Narrow(Mode.P32)
    b.set(cr4=0x200)
    b.p.set_segment("ds", 0x10, DATA, 0x100 + length - 1, 0x4093)
    assert b.run(op, ea=0x100, size=size) == EMU_NEXT
    b.p.set_segment("ds", 0x10, DATA, 0x100 + length - 2, 0x4093)
    assert b.run(op, ea=0x100, size=size) == EMU_FAULT
    assert b.fault() == (GP, 0)


@pytest.mark.parametrize(("mask", "length"), [(3, 576), (7, 832)])
def test_xsave_must_be_within_its_segment(mask: int, length: int) -> None:
    b = Narrow(Mode.P32)
    b.set(cr4=0x40200, xcr0=7, rax=mask, rdx=0)
    b.p.set_segment("ds", 0x10, DATA, 0x100 + length - 1, 0x4093)
    assert b.run(Op.OP_XSAVE, ea=0x100, size=4) == EMU_NEXT
    b.p.set_segment("ds", 0x10, DATA, 0x100 + length - 2, 0x4093)
    assert b.run(Op.OP_XSAVE, ea=0x100, size=4) == EMU_FAULT
    assert b.fault() == (GP, 0)


@pytest.mark.parametrize(
    ("op", "cr0", "expected"),
    [(Op.OP_FXSAVE, 8, (NM, None)), (Op.OP_FNSTENV, 4, (NM, None)), (Op.OP_XSAVE, 0, (UD, None))],
)
def test_disabled_unit_comes_before_the_segment(
    op: int, cr0: int, expected: tuple[int, int | None]
) -> None:
    b = Narrow(Mode.P32)
    b.set(cr0=0x11 | cr0, cr4=0x200)
    assert b.run(op, ea=0x20000, size=4) == EMU_FAULT
    assert b.fault() == expected
