"""FXSAVE, the XSAVE family, FNSTENV, FNSAVE, XCR0, and #NM."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    CPUID,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    HOLE,
    MF,
    NM,
    PF,
    READ_ONLY,
    UD,
    USER_DATA,
    Bench,
)  # fmt: skip

AREA = USER_DATA
FCW, MXCSR, ST0, XMM0, HEADER, AVX = 0, 24, 32, 160, 512, 576
CODE_POINTER, DATA_POINTER = 0xC0DE00002222, 0xDA7A00001111

SAVES = [Op.OP_XSAVE, Op.OP_XSAVEOPT, Op.OP_XSAVEC, Op.OP_XSAVES]
RESTORES = [Op.OP_XRSTOR, Op.OP_XRSTORS]


def state(*, used: int = 7, mxcsr: int = 0x1F80, fcw: int = 0x37F) -> bytearray:
    """Return an image in which every component has different bytes."""
    image = bytearray(832)
    struct.pack_into("<H", image, FCW, fcw)
    struct.pack_into("<I", image, MXCSR, mxcsr)
    if used & 1:
        image[4] = 0x80  # abridged tag word: ST0 in use, top of stack 7
        struct.pack_into("<H", image, 2, 7 << 11)
        image[ST0 : ST0 + 10] = struct.pack("<QH", 0x8000000000000000, 0x3FFF)
        struct.pack_into("<QQ", image, 8, 0x7F0000001234, 0x7F0000005678)
    if used & 2:
        image[XMM0 : XMM0 + 256] = bytes(range(256))
    if used & 4:
        image[AVX : AVX + 256] = bytes(reversed(range(256)))
    struct.pack_into("<Q", image, HEADER, used)
    return image


def mask(b: Bench, value: int) -> None:
    b.set(rax=value & 0xFFFFFFFF, rdx=value >> 32)


def area(b: Bench, size: int = 832) -> bytes:
    return b.p.read_phys(AREA, size)


def fill(b: Bench, byte: int = 0xCC) -> None:
    b.p.write_phys(AREA, bytes([byte]) * 1024)


# --- FXSAVE, FXRSTOR


def test_fxsave_writes_the_state_and_leaves_the_rest(user: Bench) -> None:
    fill(user)
    user.p.fp = state(mxcsr=0x1FA0)
    assert user.run(Op.OP_FXSAVE, ea=AREA) == EMU_NEXT
    image = area(user)
    assert image[XMM0 : XMM0 + 256] == bytes(range(256))
    assert image[ST0 : ST0 + 10] == struct.pack("<QH", 0x8000000000000000, 0x3FFF)
    assert struct.unpack_from("<II", image, MXCSR) == (0x1FA0, 0xFFFF)
    assert image[416:512] == b"\xcc" * 96


def pending() -> bytearray:
    """Return a state with a pending unmasked exception, without which AMD saves no pointers."""
    image = state(fcw=0x37E)
    struct.pack_into("<H", image, 2, 7 << 11 | 0x8081)
    return image


def test_fxsave_shows_guest_pointers_or_none(user: Bench) -> None:
    user.p.fp = pending()
    user.run(Op.OP_FXSAVE, ea=AREA, size=8)
    assert struct.unpack_from("<QQ", area(user), 8) == (0, 0)
    user.p.mark_fpu_pointers(True)
    user.run(Op.OP_FXSAVE, ea=AREA, size=8)
    assert struct.unpack_from("<QQ", area(user), 8) == (CODE_POINTER, DATA_POINTER)
    user.run(Op.OP_FXSAVE, ea=AREA, size=4)
    assert struct.unpack_from("<IIII", area(user), 8) == (
        CODE_POINTER & 0xFFFFFFFF, 0, DATA_POINTER & 0xFFFFFFFF, 0,
    )  # fmt: skip


def test_pointers_that_the_guest_loaded_come_back(user: Bench) -> None:
    image = pending()
    struct.pack_into("<QQ", image, 8, 0xFFFF800012345678, 0xFFFF800087654321)
    user.p.write_phys(AREA, bytes(image[:512]))
    user.run(Op.OP_FXRSTOR, ea=AREA, size=8)
    fill(user)
    user.run(Op.OP_FXSAVE, ea=AREA, size=8)
    assert struct.unpack_from("<QQ", area(user), 8) == (0xFFFF800012345678, 0xFFFF800087654321)
    assert user.p.fp[0:2] == image[0:2]


def test_fxrstor_loads_what_fxsave_wrote(user: Bench) -> None:
    user.p.write_phys(AREA, bytes(state(used=3, mxcsr=0x3F80, fcw=0x27F)[:512]))
    assert user.run(Op.OP_FXRSTOR, ea=AREA) == EMU_NEXT
    assert user.p.fp[XMM0 : XMM0 + 256] == bytes(range(256))
    assert struct.unpack_from("<H", user.p.fp, FCW) == (0x27F,)
    assert struct.unpack_from("<I", user.p.fp, MXCSR) == (0x3F80,)


def test_fxrstor_refuses_reserved_bits_of_mxcsr(user: Bench) -> None:
    user.p.write_phys(AREA, bytes(state(mxcsr=0x11F80)[:512]))
    assert user.run(Op.OP_FXRSTOR, ea=AREA) == EMU_FAULT
    assert user.fault() == (GP, 0)
    assert user.p.fp[XMM0 : XMM0 + 256] == bytes(256)


@pytest.mark.parametrize("op", [Op.OP_FXSAVE, Op.OP_FXRSTOR])
@pytest.mark.parametrize(
    ("cr0", "ea", "expected"),
    [
        (4, AREA, (UD, None)),
        (0xC, AREA, (UD, None)),
        (8, AREA, (NM, None)),
        (8, AREA + 8, (NM, None)),
        (0, AREA + 8, (GP, 0)),
        (0, HOLE - 256, None),
    ],
)
def test_faults_of_fx(
    user: Bench, op: int, cr0: int, ea: int, expected: tuple[int, int | None] | None
) -> None:
    user.map(HOLE - 0x1000, HOLE - 0x1000 | 7)
    user.set(cr0=user.get("cr0") | cr0)
    assert user.run(op, ea=ea) == EMU_FAULT
    assert user.fault() == (expected or (PF, 6 if op == Op.OP_FXSAVE else 4))


# --- XSAVE and its variants


@pytest.mark.parametrize("op", SAVES)
def test_save_of_everything(kernel: Bench, op: int) -> None:
    fill(kernel, 0)
    kernel.p.fp = state(mxcsr=0x1FA0)
    mask(kernel, (1 << 64) - 1)
    assert kernel.run(op, ea=AREA) == EMU_NEXT
    image = area(kernel)
    assert image[XMM0 : XMM0 + 256] == bytes(range(256))
    assert image[AVX : AVX + 256] == bytes(reversed(range(256)))
    assert image[ST0 : ST0 + 10] == struct.pack("<QH", 0x8000000000000000, 0x3FFF)
    assert struct.unpack_from("<I", image, MXCSR) == (0x1FA0,)
    compacted = op in {Op.OP_XSAVEC, Op.OP_XSAVES}
    assert struct.unpack_from("<QQ", image, HEADER) == (7, 1 << 63 | 7 if compacted else 0)
    assert struct.unpack_from("<QQ", image, 8) == (0, 0)


def test_xsave_writes_only_the_components_asked_for(user: Bench) -> None:
    fill(user)
    user.p.fp = state()
    user.p.write_phys(AREA + HEADER, struct.pack("<QQ", 5, 0))
    mask(user, 2)
    assert user.run(Op.OP_XSAVE, ea=AREA) == EMU_NEXT
    image = area(user)
    assert image[:24] == b"\xcc" * 24
    assert image[ST0:XMM0] == b"\xcc" * 128
    assert image[XMM0 : XMM0 + 256] == bytes(range(256))
    assert image[AVX:] == b"\xcc" * 256
    assert struct.unpack_from("<QQ", image, HEADER) == (7, 0)


def test_xsave_of_avx_alone_writes_mxcsr(user: Bench) -> None:
    fill(user)
    user.p.fp = state(mxcsr=0x1FA0)
    mask(user, 4)
    user.run(Op.OP_XSAVE, ea=AREA)
    image = area(user)
    assert struct.unpack_from("<I", image, MXCSR) == (0x1FA0,)
    assert image[XMM0:416] == b"\xcc" * 256


def test_xsave_is_masked_by_the_virtual_xcr0(user: Bench) -> None:
    fill(user)
    user.set(xcr0=3)
    user.p.fp = state()
    mask(user, 0xFF)
    user.run(Op.OP_XSAVE, ea=AREA)
    assert area(user)[AVX:] == b"\xcc" * 256
    assert struct.unpack_from("<Q", area(user), HEADER)[0] & 7 == 3 | 0xCC & 4


def test_xsaveopt_skips_components_in_their_initial_state(user: Bench) -> None:
    fill(user)
    user.p.fp = state(used=0)
    mask(user, 7)
    assert user.run(Op.OP_XSAVEOPT, ea=AREA) == EMU_NEXT
    image = area(user)
    assert image[AVX:] == b"\xcc" * 256
    assert struct.unpack_from("<Q", image, HEADER)[0] & 4 == 0


def test_xsavec_counts_mxcsr_as_sse_state(user: Bench) -> None:
    fill(user, 0)
    user.p.fp = state(used=0, mxcsr=0x1FA0)
    mask(user, 6)
    user.run(Op.OP_XSAVEC, ea=AREA)
    bitmap, layout = struct.unpack_from("<QQ", area(user), HEADER)
    assert bitmap == 2
    assert layout == 1 << 63 | 6
    assert struct.unpack_from("<I", area(user), MXCSR) == (0x1FA0,)


@pytest.mark.parametrize("op", [*SAVES, *RESTORES])
def test_faults_of_the_xsave_family(kernel: Bench, op: int) -> None:
    mask(kernel, 7)
    cr0, cr4 = kernel.get("cr0"), kernel.get("cr4")
    assert kernel.run(op, ea=AREA + 32) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    kernel.set(cr0=cr0 | 8)
    assert kernel.run(op, ea=AREA + 32) == EMU_FAULT
    assert kernel.fault() == (NM, None)
    kernel.set(cr4=cr4 & ~(1 << 18))
    assert kernel.run(op, ea=AREA) == EMU_FAULT
    assert kernel.fault() == (UD, None)
    kernel.set(cr0=cr0, cr4=cr4)
    assert kernel.run(op, ea=HOLE - 512) == EMU_FAULT
    assert kernel.fault() == (PF, 2 if op in SAVES else 0)
    assert kernel.get("exc_cr2") == HOLE


@pytest.mark.parametrize("op", SAVES)
def test_save_to_read_only_memory_changes_nothing(kernel: Bench, op: int) -> None:
    mask(kernel, 7)
    assert kernel.run(op, ea=READ_ONLY) == EMU_FAULT
    assert kernel.fault() == (PF, 3)


@pytest.mark.parametrize("op", [Op.OP_XSAVES, Op.OP_XRSTORS])
def test_supervisor_variants_are_privileged(user: Bench, op: int) -> None:
    assert user.run(op, ea=AREA + 1) == EMU_FAULT
    assert user.fault() == (GP, 0)


@pytest.mark.parametrize("op", [Op.OP_XSAVEOPT, Op.OP_XSAVEC, Op.OP_XSAVES, Op.OP_XRSTORS])
def test_variants_need_cpuid(kernel: Bench, op: int) -> None:
    kernel.p.set_cpuid([row for row in CPUID if row[:2] != (0xD, 1)])
    assert kernel.run(op, ea=AREA) == EMU_FAULT
    assert kernel.fault() == (UD, None)


# --- XRSTOR


def write_area(b: Bench, image: bytearray, layout: int = 0) -> None:
    struct.pack_into("<Q", image, HEADER + 8, layout)
    b.p.write_phys(AREA, bytes(image))


@pytest.mark.parametrize(
    ("op", "layout"),
    [(Op.OP_XRSTOR, 0), (Op.OP_XRSTOR, 1 << 63 | 7), (Op.OP_XRSTORS, 1 << 63 | 7)],
)
def test_restore_of_everything(kernel: Bench, op: int, layout: int) -> None:
    write_area(kernel, state(mxcsr=0x3F80), layout)
    mask(kernel, (1 << 64) - 1)
    assert kernel.run(op, ea=AREA) == EMU_NEXT
    assert kernel.p.fp[XMM0 : XMM0 + 256] == bytes(range(256))
    assert kernel.p.fp[AVX : AVX + 256] == bytes(reversed(range(256)))
    assert kernel.p.fp[ST0 : ST0 + 10] == struct.pack("<QH", 0x8000000000000000, 0x3FFF)
    assert struct.unpack_from("<I", kernel.p.fp, MXCSR) == (0x3F80,)


@pytest.mark.parametrize("layout", [0, 1 << 63 | 7])
def test_restore_initializes_what_the_bitmap_lacks(user: Bench, layout: int) -> None:
    user.p.fp = state()
    write_area(user, state(used=1), layout)
    mask(user, 6)
    user.run(Op.OP_XRSTOR, ea=AREA)
    assert user.p.fp[XMM0 : XMM0 + 256] == bytes(256)
    assert user.p.fp[AVX : AVX + 256] == bytes(256)
    assert user.p.fp[ST0 : ST0 + 8] == struct.pack("<Q", 0x8000000000000000)


def test_standard_form_loads_mxcsr_whatever_the_bitmap_says(user: Bench) -> None:
    write_area(user, state(used=0, mxcsr=0x3F80))
    for components in (2, 4):
        user.p.fp = state()
        mask(user, components)
        user.run(Op.OP_XRSTOR, ea=AREA)
        assert struct.unpack_from("<I", user.p.fp, MXCSR) == (0x3F80,)


def test_compacted_form_initializes_mxcsr_with_sse_and_keeps_it_with_avx(user: Bench) -> None:
    write_area(user, state(used=0, mxcsr=0x3F80), 1 << 63 | 7)
    for components, expected in ((2, 0x1F80), (4, 0x1FA0)):
        user.p.fp = state(mxcsr=0x1FA0)
        mask(user, components)
        user.run(Op.OP_XRSTOR, ea=AREA)
        assert struct.unpack_from("<I", user.p.fp, MXCSR) == (expected,)


def test_restore_of_nothing_keeps_all(user: Bench) -> None:
    user.p.fp = state()
    write_area(user, state(used=0, mxcsr=0xFFFFFFFF))
    mask(user, 0)
    assert user.run(Op.OP_XRSTOR, ea=AREA) == EMU_NEXT
    assert user.p.fp[XMM0 : XMM0 + 256] == bytes(range(256))


@pytest.mark.parametrize(
    ("op", "bitmap", "layout", "rest"),
    [
        (Op.OP_XRSTOR, 8, 0, 0),
        (Op.OP_XRSTOR, 1 << 63, 0, 0),
        (Op.OP_XRSTOR, 7, 1, 0),
        (Op.OP_XRSTOR, 7, 0, 1),
        (Op.OP_XRSTOR, 7, 1 << 63 | 3, 0),
        (Op.OP_XRSTOR, 7, 1 << 63 | 0xF, 0),
        (Op.OP_XRSTOR, 1 << 63, 1 << 63 | 7, 0),
        (Op.OP_XRSTOR, 7, 1 << 63 | 7, 1),
        (Op.OP_XRSTORS, 7, 0, 0),
        (Op.OP_XRSTORS, 7, 1 << 63 | 1 << 8, 0),
    ],
)
def test_faulty_header(kernel: Bench, op: int, bitmap: int, layout: int, rest: int) -> None:
    image = state(used=0)
    struct.pack_into("<QQQ", image, HEADER, bitmap, layout, rest)
    kernel.p.write_phys(AREA, bytes(image))
    mask(kernel, 7)
    assert kernel.run(op, ea=AREA) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_last_header_byte_counts_only_in_the_compacted_form(kernel: Bench) -> None:
    image = state()
    image[HEADER + 63] = 1
    write_area(kernel, image)
    mask(kernel, 7)
    assert kernel.run(Op.OP_XRSTOR, ea=AREA) == EMU_NEXT
    write_area(kernel, image, 1 << 63 | 7)
    assert kernel.run(Op.OP_XRSTOR, ea=AREA) == EMU_FAULT


def test_restore_refuses_reserved_bits_of_mxcsr(user: Bench) -> None:
    write_area(user, state(mxcsr=0x10000))
    mask(user, 2)
    assert user.run(Op.OP_XRSTOR, ea=AREA) == EMU_FAULT
    assert user.fault() == (GP, 0)
    mask(user, 1)
    assert user.run(Op.OP_XRSTOR, ea=AREA) == EMU_NEXT


def test_component_outside_xcr0_is_refused(user: Bench) -> None:
    user.set(xcr0=3)
    write_area(user, state(used=7))
    mask(user, 3)
    assert user.run(Op.OP_XRSTOR, ea=AREA) == EMU_FAULT


# --- FNSTENV, FNSAVE


def test_fnstenv_stores_the_environment_and_masks_exceptions(user: Bench) -> None:
    fill(user)
    user.p.fp = pending()
    user.p.mark_fpu_pointers(True)
    assert user.run(Op.OP_FNSTENV, ea=AREA + 2, size=4) == EMU_NEXT
    env = struct.unpack("<7I", user.p.read_phys(AREA + 2, 28))
    assert env[0] == 0xFFFF037E
    assert env[1] == 0xFFFFB881
    assert env[2] == 0xFFFF3FFF
    assert env[3] == CODE_POINTER & 0xFFFFFFFF
    assert env[4] & 0xFFFF == 0
    assert env[5:] == (DATA_POINTER & 0xFFFFFFFF, 0xFFFF0000)
    assert user.p.read_phys(AREA + 30, 1) == b"\xcc"
    assert struct.unpack_from("<H", user.p.fp, FCW) == (0x37F,)


def test_fnstenv_of_16_bits(user: Bench) -> None:
    fill(user)
    user.p.fp = pending()
    user.p.mark_fpu_pointers(True)
    user.run(Op.OP_FNSTENV, ea=AREA, size=2)
    env = struct.unpack("<7H", user.p.read_phys(AREA, 14))
    assert env == (0x37E, 0xB881, 0x3FFF, CODE_POINTER & 0xFFFF, 0, DATA_POINTER & 0xFFFF, 0)
    assert user.p.read_phys(AREA + 14, 1) == b"\xcc"


@pytest.mark.parametrize(("size", "offset"), [(4, 28), (2, 14)])
def test_fnsave_stores_registers_and_initializes(user: Bench, size: int, offset: int) -> None:
    fill(user)
    user.p.fp = state(fcw=0x27F)
    assert user.run(Op.OP_FNSAVE, ea=AREA, size=size) == EMU_NEXT
    image = user.p.read_phys(AREA, 112)
    assert image[offset : offset + 10] == struct.pack("<QH", 0x8000000000000000, 0x3FFF)
    assert image[offset + 80] == 0xCC
    assert struct.unpack_from("<H", user.p.fp, FCW) == (0x37F,)
    assert user.p.fp[4] == 0


@pytest.mark.parametrize("op", [Op.OP_FNSTENV, Op.OP_FNSAVE])
def test_faults_of_x87_saves(user: Bench, op: int) -> None:
    user.p.fp = state(fcw=0x27F)
    assert user.run(op, ea=HOLE, size=4) == EMU_FAULT
    assert user.fault() == (PF, 6)
    assert struct.unpack_from("<H", user.p.fp, FCW) == (0x27F,)
    for bit in (4, 8):
        user.set(cr0=user.get("cr0") & ~0xC | bit)
        assert user.run(op, ea=AREA, size=4) == EMU_FAULT
        assert user.fault() == (NM, None)


# --- XCR0


def test_xgetbv_reads_xcr0_and_what_is_in_use(user: Bench) -> None:
    user.set(rcx=0, rdx=-1)
    assert user.run(Op.OP_XGETBV) == EMU_NEXT
    assert (user.get("rax"), user.get("rdx")) == (7, 0)
    user.p.fp = state(used=5)
    user.set(rcx=1)
    user.run(Op.OP_XGETBV)
    assert user.get("rax") & 5 == 5


@pytest.mark.parametrize("op", [Op.OP_XGETBV, Op.OP_XSETBV])
def test_xcr_access_needs_osxsave(kernel: Bench, op: int) -> None:
    kernel.set(cr4=kernel.get("cr4") & ~(1 << 18))
    assert kernel.run(op) == EMU_FAULT
    assert kernel.fault() == (UD, None)


def test_xgetbv_of_another_register(user: Bench) -> None:
    user.set(rcx=2)
    assert user.run(Op.OP_XGETBV) == EMU_FAULT
    assert user.fault() == (GP, 0)


@pytest.mark.parametrize("value", [1, 3, 7])
def test_xsetbv(kernel: Bench, value: int) -> None:
    kernel.set(rax=value, rcx=0, rdx=0)
    assert kernel.run(Op.OP_XSETBV) == EMU_FLOW
    assert kernel.get("xcr0") == value


@pytest.mark.parametrize(
    ("value", "index"), [(0, 0), (2, 0), (5, 0), (0xF, 0), (1 << 63 | 7, 0), (7, 1)]
)
def test_xsetbv_refuses(kernel: Bench, value: int, index: int) -> None:
    kernel.set(rax=value & 0xFFFFFFFF, rcx=index, rdx=value >> 32)
    assert kernel.run(Op.OP_XSETBV) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_xsetbv_is_privileged(user: Bench) -> None:
    user.set(rax=7, rcx=0, rdx=0)
    assert user.run(Op.OP_XSETBV) == EMU_FAULT
    assert user.fault() == (GP, 0)


# --- device not available


@pytest.mark.parametrize(
    ("code", "cr0", "expected"),
    [
        (b"\xd9\xe8", 8, (NM, None)),
        (b"\xd9\xe8", 4, (NM, None)),
        (b"\x0f\x6f\xc1", 8, (NM, None)),
        (b"\x0f\x6f\xc1", 4, (UD, None)),
        (b"\xf3\x0f\x6f\xc1", 0xC, (UD, None)),
        (b"\x66\x48\x0f\x6e\xc0", 8, (NM, None)),
        (b"\xc5\xf8\x77", 8, (NM, None)),
        (b"\xc4\xe2\x7d\x18\x00", 0xC, (NM, None)),
        (b"\x9b", 0xA, (NM, None)),
    ],
)
def test_unit_that_is_not_available(
    user: Bench, code: bytes, cr0: int, expected: tuple[int, int | None]
) -> None:
    user.set(cr0=user.get("cr0") & ~0xE | cr0)
    assert user.run(Op.OP_NM, code=code) == EMU_FAULT
    assert user.fault() == expected


def test_fwait_without_mp_only_looks_for_an_exception(user: Bench) -> None:
    user.set(cr0=user.get("cr0") & ~0xE | 8)
    assert user.run(Op.OP_NM, code=b"\x9b") == EMU_NEXT
    user.p.fp = state(fcw=0x37E)
    struct.pack_into("<H", user.p.fp, 2, 0x8081)
    assert user.run(Op.OP_NM, code=b"\x9b") == EMU_FAULT
    assert user.fault() == (MF, None)


def test_avx_with_em_alone_is_for_the_general_emulator(user: Bench) -> None:
    user.set(cr0=user.get("cr0") & ~0xE | 4)
    assert user.run(Op.OP_NM, code=b"\xc5\xf8\x77") == EMU_EXIT
    assert user.get("exit_kind") == 11
