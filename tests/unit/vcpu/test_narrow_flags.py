"""Flags, INT n, ports and fast system calls outside 64-bit mode; VME and PVI."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import CPUID
from tests.unit.vcpu.narrow import (
    BP,
    CODE,
    CODE0,
    CODE1,
    DATA,
    DATA0,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    HANDLER,
    ID,
    IF,
    IOPL3,
    IVT,
    NT,
    OF,
    OF_FLAG,
    PML4,
    RAX,
    SS,
    STACKS,
    START,
    TF,
    TOP,
    TSS32,
    UD,
    VIF,
    VIP,
    VM,
    Mode,
    Narrow,
    gate,
)

VME, PVI = 1, 2
VECTOR = 0x41
INT = bytes([0xCD, VECTOR])
IOPLS = pytest.mark.parametrize("iopl", range(4))
VME_OR_NOT = pytest.mark.parametrize("vme", [False, True])


def v86(iopl: int, *, vme: bool, flags: int = 0, redirect: bool | None = None) -> Narrow:
    """Return a processor in virtual-8086 mode; `redirect`: INT VECTOR to the program itself."""
    b = Narrow(Mode.V86)
    b.set(cr4=VME * vme)
    b.set(rflags=VM | 2 | iopl << 12 | flags)
    b.idt(VECTOR, gate(14, CODE0, HANDLER + VECTOR, 3))
    for vector in (BP, OF):
        b.idt(vector, gate(14, CODE0, HANDLER + vector, 3))
    b.put(TSS32 + 102, 2, 0xA8)
    b.p.write_phys(TSS32 + 0x88, b"\xff" * 0x60)
    if redirect:
        bits = bytearray(b"\xff" * 32)
        bits[VECTOR >> 3] ^= 1 << (VECTOR & 7)
        b.p.write_phys(TSS32 + 0x88, bytes(bits))
    b.put(IVT + 4 * VECTOR, 2, 0x5555, 0x6666)
    return b


# --- CLI and STI


@IOPLS
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("pvi", [False, True])
@pytest.mark.parametrize("vip", [0, VIP])
def test_cli_and_sti_in_protected_mode(iopl: int, cpl: int, pvi: bool, vip: int) -> None:
    b = Narrow(Mode.P32, cpl)
    b.set(cr4=PVI * pvi)
    old = 2 | iopl << 12 | vip
    b.set(rflags=old)
    real, virtual = cpl <= iopl, pvi and cpl == 3
    sti = b.outcome(b.run(Op.OP_STI))
    assert sti == (None if real or (virtual and not vip) else (GP, 0))
    assert b.get("rflags") == old | (0 if sti else IF if real else VIF)
    b.set(rflags=old | IF | VIF)
    cli = b.outcome(b.run(Op.OP_CLI))
    assert cli == (None if real or virtual else (GP, 0))
    assert b.get("rflags") == (old | IF | VIF) ^ (0 if cli else IF if real else VIF)


@IOPLS
@VME_OR_NOT
@pytest.mark.parametrize("vip", [0, VIP])
def test_cli_and_sti_in_virtual_8086_mode(iopl: int, vme: bool, vip: int) -> None:
    b = v86(iopl, vme=vme, flags=vip)
    old = b.get("rflags")
    sti = b.outcome(b.run(Op.OP_STI))
    assert sti == (None if iopl == 3 or (vme and not vip) else (GP, 0))
    assert b.get("rflags") == old | (0 if sti else IF if iopl == 3 else VIF)
    b.set(rflags=old | IF | VIF)
    cli = b.outcome(b.run(Op.OP_CLI))
    assert cli == (None if iopl == 3 or vme else (GP, 0))
    assert b.get("rflags") == (old | IF | VIF) ^ (0 if cli else IF if iopl == 3 else VIF)


# --- PUSHF, POPF and IRET


@IOPLS
@VME_OR_NOT
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("bits", [0, IF, VIF, IF | VIF | NT | ID])
def test_pushf_in_virtual_8086_mode(iopl: int, vme: bool, size: int, bits: int) -> None:
    b = v86(iopl, vme=vme, flags=bits)
    flags = b.get("rflags") & ~VM & (1 << 8 * size) - 1
    denied = iopl < 3 and (not vme or size == 4)
    if iopl < 3:
        flags = flags & ~IF | IOPL3 | IF * (bits & VIF != 0)
    assert b.outcome(b.run(Op.OP_PUSHF, size=size)) == ((GP, 0) if denied else None)
    assert b.words(STACKS + b.get("rsp"), 1, size)[0] == (0 if denied else flags)


def v86_flags(b: Narrow, image: int, iopl: int, size: int, vme: bool) -> int | None:
    """Return the flags after POPF or IRET in virtual-8086 mode; None: #GP(0) (SDM 2B POPF)."""
    old = b.get("rflags")
    mask = 0xFFFF if size == 2 else 0x24FFFF
    if iopl == 3:
        mask &= ~(IOPL3 | 2 | 0x8028)
        return old & ~mask | image & mask
    if not vme or size == 4 or image & TF or (image & IF and old & VIP):
        return None
    mask &= ~(IOPL3 | IF | 2 | 0x8028)
    return old & ~mask & ~VIF | image & mask | VIF * (image & IF != 0)


@IOPLS
@VME_OR_NOT
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("image", [0, IF, 0xFEFF, 0xFDFEFF & ~NT, TF])
@pytest.mark.parametrize("vip", [0, VIP])
@pytest.mark.parametrize("op", [Op.OP_POPF, Op.OP_IRET])
def test_flags_that_virtual_8086_mode_loads(
    iopl: int, vme: bool, size: int, image: int, vip: int, op: int
) -> None:
    b = v86(iopl, vme=vme, flags=vip | VIF)
    before = [START, CODE >> 4] * (op == Op.OP_IRET)
    image &= (1 << 8 * size) - 1 & ~0x10000
    b.put(STACKS + TOP, size, *before, image)
    expected = v86_flags(b, image, iopl, size, vme)
    old = b.get("rflags")
    assert b.outcome(b.run(op, size=size)) == ((GP, 0) if expected is None else None)
    assert b.get("rflags") == (old if expected is None else expected)
    moved = 0 if expected is None else size * (len(before) + 1)
    assert b.get("rsp") == TOP + moved


@IOPLS
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("image", [0, 0xFFFFFEFF])
def test_popf_in_protected_mode(iopl: int, cpl: int, size: int, image: int) -> None:
    b = Narrow(Mode.P32, cpl)
    old = 2 | iopl << 12 | VIF
    b.set(rflags=old)
    b.put(STACKS + TOP, size, image & (1 << 8 * size) - 1)
    assert b.run(Op.OP_POPF, size=size) in (EMU_NEXT, EMU_FLOW)
    mask = 0x244CD5 | IF * (cpl <= iopl) | IOPL3 * (cpl == 0)
    mask &= (1 << 8 * size) - 1
    assert b.get("rflags") == old & ~mask | image & mask


# --- INT n


@IOPLS
@VME_OR_NOT
@pytest.mark.parametrize("redirect", [False, True])
def test_int_n_in_virtual_8086_mode(iopl: int, vme: bool, redirect: bool) -> None:
    b = v86(iopl, vme=vme, redirect=redirect)
    result = b.outcome(b.run(Op.OP_INT, imm=VECTOR, code=INT))
    program = vme and redirect
    denied = iopl < 3 and not program
    assert result == ((GP, 0) if denied else None)
    place = (b.selector("cs"), b.get("rip"), b.get("cpl"))
    assert place == (
        (CODE >> 4, START, 3)
        if denied
        else (0x6666, 0x5555, 3)
        if program
        else (CODE0, HANDLER + VECTOR, 0)
    )


@IOPLS
def test_frame_of_a_redirected_interrupt(iopl: int) -> None:
    b = v86(iopl, vme=True, flags=IF | VIF | TF | NT, redirect=True)
    b.run(Op.OP_INT, imm=VECTOR, code=INT)
    assert b.pushed(3, 2) == [START + 2, CODE >> 4, 2 | IF | TF | NT | IOPL3]
    left = IF | NT if iopl < 3 else VIF | NT
    assert b.get("rflags") == VM | 2 | iopl << 12 | left


@pytest.mark.parametrize(("limit", "base"), [(0x67 - 2, 0xA8), (0x8F, 0xA8), (0x3FF, 0)])
def test_redirection_map_outside_the_tss(limit: int, base: int) -> None:
    b = v86(0, vme=True, redirect=True)
    b.p.set_segment("tr", 0x50, TSS32, limit, 0x8B)
    b.put(TSS32 + 102, 2, base)
    assert b.run(Op.OP_INT, imm=VECTOR, code=INT) == EMU_FAULT
    assert b.fault() == (GP, 0)


@VME_OR_NOT
@pytest.mark.parametrize(("op", "vector"), [(Op.OP_INT3, BP), (Op.OP_INTO, OF)])
def test_int3_and_into_need_no_iopl(vme: bool, op: int, vector: int) -> None:
    b = v86(0, vme=vme, flags=OF_FLAG)
    assert b.run(op, code=b"\xcc") == EMU_FLOW
    assert (b.arrived(), b.get("cpl")) == (vector, 0)


def test_vme_must_be_shown_by_cpuid() -> None:
    b = Narrow(Mode.P32)
    b.set(rax=VME | PVI)
    assert b.run(Op.OP_MOV_TO_CR, reg=4, rm=RAX) == EMU_FLOW
    b.p.set_cpuid([(1, 0, 0, 0, 0, 0, 0xFFFFFFFF ^ 2)])
    for bit in (VME, PVI):
        b.set(rax=bit)
        assert b.run(Op.OP_MOV_TO_CR, reg=4, rm=RAX) == EMU_FAULT
        assert b.fault() == (GP, 0)


# --- ports


@IOPLS
@pytest.mark.parametrize("mode", [Mode.P32, Mode.V86])
@pytest.mark.parametrize("allowed", [True, False])
def test_permission_of_ports(iopl: int, mode: Mode, allowed: bool) -> None:
    b = Narrow(mode, 3)
    b.set(rflags=b.get("rflags") | iopl << 12, rdx=0x21)
    b.put(TSS32 + 102, 2, 0x88)
    b.p.write_phys(TSS32 + 0x88, b"\xff\xff\xff\xff" + (b"\xf9" if allowed else b"\xfb"))
    result = b.outcome(b.run(Op.OP_IN, size=2, code=b"\xed"))
    free = allowed or (iopl == 3 and mode is Mode.P32)
    assert result == (None if free else (GP, 0))


def test_16_bit_tss_permits_no_port() -> None:
    b = Narrow(Mode.P32, 3, wide_tss=False)
    assert b.run(Op.OP_IN, size=1, code=b"\xec") == EMU_FAULT
    assert b.fault() == (GP, 0)


def test_real_mode_needs_no_permission() -> None:
    b = Narrow(Mode.REAL)
    assert b.run(Op.OP_IN, size=1, code=b"\xec") == EMU_EXIT


@pytest.mark.parametrize(
    ("mode", "flags", "width"),
    [(Mode.REAL, 0, 2), (Mode.REAL, 8, 4), (Mode.P32, 0, 4), (Mode.P32, 8, 2)],
)
def test_string_input_takes_the_address_size(mode: Mode, flags: int, width: int) -> None:
    b = Narrow(mode)
    mask = (1 << 8 * width) - 1
    high = 0xABCD0000 & ~mask
    b.set(rdi=high | 0x100, rcx=high | 2, rdx=0x60)
    for byte in b"\x11\x22":
        assert b.run(Op.OP_INS, size=1, flags=flags | 1, code=b"\xf3\x6c") == EMU_EXIT
        assert b.p.complete(byte) == EMU_FLOW
    assert b.p.read_phys(DATA + 0x100, 3) == b"\x11\x22\0"
    assert (b.get("rdi"), b.get("rcx")) == (high | 0x102, high)
    assert b.get("rip") == START + 2


def test_string_input_wraps_at_the_address_size() -> None:
    b = Narrow(Mode.REAL)
    b.set(rdi=0xFFFF)
    b.run(Op.OP_INS, size=1, code=b"\x6c")
    b.p.complete(0x11)
    assert b.get("rdi") == 0


@pytest.mark.parametrize(("op", "segment", "vector"), [(Op.OP_INS, 7, GP), (Op.OP_OUTS, 7, GP),
                                                       (Op.OP_OUTS, 2, SS)])  # fmt: skip
def test_string_operand_beyond_the_limit(op: int, segment: int, vector: int) -> None:
    b = Narrow(Mode.P32)
    b.set(rdi=0x10000, rsi=0x10000)
    assert b.run(op, size=1, segment=segment) == EMU_FAULT
    assert b.fault() == (vector, 0)


def test_string_output_reads_its_segment() -> None:
    b = Narrow(Mode.P16)
    b.set(rsi=0xABCD0010)
    b.p.write_phys(CODE + 0x10, b"\x77")
    assert b.run(Op.OP_OUTS, size=1, segment=1, code=b"\x2e\x6e") == EMU_EXIT
    assert (b.get("io_data"), b.get("rsi")) == (0x77, 0xABCD0011)


# --- SYSENTER, SYSEXIT, SYSCALL, SYSRET


@pytest.mark.parametrize("mode", [Mode.V86, Mode.P16, Mode.P32])
def test_sysenter_and_sysexit(mode: Mode) -> None:
    b = Narrow(mode, 3)
    b.set(sysenter_cs=CODE0 | 3, sysenter_esp=0x12345678, sysenter_eip=0x23456789)
    b.flags_or(IF)
    assert b.run(Op.OP_SYSENTER) == EMU_FLOW
    assert b.p.get_segment("cs") == (CODE0, 0, 0xFFFFFFFF, 0xC09B)
    assert b.p.get_segment("ss") == (DATA0, 0, 0xFFFFFFFF, 0xC093)
    assert (b.get("rip"), b.get("rsp"), b.get("cpl")) == (0x23456789, 0x12345678, 0)
    assert b.get("rflags") == 2
    b.set(rcx=0x1111, rdx=0x2222)
    assert b.run(Op.OP_SYSEXIT, size=4) == EMU_FLOW
    assert b.p.get_segment("cs") == (CODE0 + 16 | 3, 0, 0xFFFFFFFF, 0xC0FB)
    assert b.p.get_segment("ss") == (CODE0 + 24 | 3, 0, 0xFFFFFFFF, 0xC0F3)
    assert (b.get("rip"), b.get("rsp"), b.get("cpl")) == (0x2222, 0x1111, 3)


@pytest.mark.parametrize("op", [Op.OP_SYSENTER, Op.OP_SYSEXIT])
def test_fast_calls_of_real_mode(op: int) -> None:
    b = Narrow(Mode.REAL)
    b.set(sysenter_cs=CODE0)
    assert b.run(op) == EMU_FAULT
    assert b.fault() == (GP, 0)


AMD = [(0, 0, 0, 0x16, 0x68747541, 0x444D4163, 0x69746E65), *[r for r in CPUID if r[0]]]


@pytest.mark.parametrize("op", [Op.OP_SYSCALL, Op.OP_SYSRET])
@pytest.mark.parametrize("mode", [Mode.REAL, Mode.P32, Mode.COMPAT])
def test_intel_has_syscall_in_64_bit_mode_only(op: int, mode: Mode) -> None:
    b = Narrow(mode)
    b.set(efer=b.get("efer") | 1)
    assert b.run(op) == EMU_FAULT
    assert b.fault() == (UD, None)


def test_syscall_of_amd_in_compatibility_mode() -> None:
    b = Narrow(Mode.COMPAT, 3)
    b.p.set_cpuid(AMD)
    b.set(star=0x0023_0008 << 32, cstar=0x123456789A, sfmask=IF)
    b.flags_or(IF)
    assert b.run(Op.OP_SYSCALL, code=b"\x0f\x05") == EMU_FLOW
    assert (b.get("rip"), b.get("cpl"), b.get("key") & 0x1C) == (0x123456789A, 0, 16)
    assert (b.get("rcx"), b.get("r11"), b.get("rflags")) == (START + 2, IF | 2, 2)


def test_syscall_and_sysret_of_amd_in_protected_mode() -> None:
    b = Narrow(Mode.P32, 3)
    b.p.set_cpuid(AMD)
    b.set(efer=1, star=0x0023_0008_1234_5678)
    b.flags_or(IF)
    assert b.run(Op.OP_SYSCALL, code=b"\x0f\x05") == EMU_FLOW
    assert b.p.get_segment("cs") == (8, 0, 0xFFFFFFFF, 0xC09B)
    assert (b.get("rip"), b.get("rcx"), b.get("rflags")) == (0x12345678, START + 2, 2)
    assert b.run(Op.OP_SYSRET) == EMU_FLOW
    assert b.p.get_segment("cs") == (0x23, 0, 0xFFFFFFFF, 0xC0FB)
    assert (b.get("rip"), b.get("cpl"), b.get("rflags")) == (START + 2, 3, IF | 2)


# --- PDPTE registers and paging


def pae(b: Narrow, entries: list[int]) -> None:
    """Write a table of page-directory pointers at PML4."""
    b.p.write_phys(PML4, struct.pack("<4Q", *entries))
    b.p.write_phys(PML4 + 0x1000, struct.pack("<2Q", 0x83, 0x200083))


GOOD = [PML4 + 0x1001, 0, 0, 0]
BAD = [[PML4 + 0x1001 | 1 << bit, 0, 0, 0] for bit in (1, 2, 5, 6, 7, 8, 63)]
BAD += [[PML4 + 0x1001, 0, 0, 3], [PML4 + 0x1001 | 1 << 51, 0, 0, 0]]


def write(b: Narrow, register: int, value: int) -> int:
    b.set(rax=value)
    return b.run(Op.OP_MOV_TO_CR, reg=register, rm=RAX)


@pytest.mark.parametrize("entries", BAD)
def test_reserved_bit_of_a_pdpte(entries: list[int]) -> None:
    b = Narrow(Mode.P32)
    pae(b, entries)
    b.set(cr4=0x20, cr3=PML4)
    assert write(b, 0, 0x80000011) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.get("cr0") == 0x11


@pytest.mark.parametrize(("register", "value"), [(3, PML4), (4, 0xA0), (4, 0x30), (0, 0xC0000011)])
def test_pdptes_are_checked_again(register: int, value: int) -> None:
    b = Narrow(Mode.P32)
    pae(b, GOOD)
    b.set(cr4=0x20, cr3=PML4)
    assert write(b, 0, 0x80000011) == EMU_FLOW
    old = b.get(f"cr{register}")
    b.p.write_phys(PML4 + 24, b"\x03")
    assert write(b, register, value) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.get(f"cr{register}") == old


def test_absent_pdpte_may_have_any_bit() -> None:
    b = Narrow(Mode.P32)
    pae(b, [PML4 + 0x1001, 0x1E6, 1 << 63, 0])
    b.set(cr4=0x20, cr3=PML4)
    assert write(b, 0, 0x80000011) == EMU_FLOW


def test_pae_comes_and_goes_while_paging_is_on() -> None:
    b = Narrow(Mode.P32)
    b.put(0x50000, 4, 0x83)  # two-level paging: 4 MiB with PSE
    b.set(cr4=0x10, cr3=0x50000)
    assert write(b, 0, 0x80000011) == EMU_FLOW
    b.p.write_phys(0x50000, struct.pack("<4Q", 0x83, 0, 0, 0))
    assert write(b, 4, 0x20) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.get("cr4") == 0x10


@pytest.mark.parametrize("kind", [1, 3, 9, 11])
def test_ia32e_mode_is_not_entered_with_a_16_bit_tss(kind: int) -> None:
    b = Narrow(Mode.P32)
    b.p.set_segment("tr", 0x50, TSS32, 0x67, 0x80 | kind)
    b.set(cr4=0x20, efer=0x100, cr3=PML4)
    assert b.outcome(write(b, 0, 0x80000011)) == ((GP, 0) if kind < 9 else None)


def test_ring_1_may_not_use_pvi() -> None:
    b = Narrow(Mode.P32, 1)
    b.set(cr4=PVI)
    assert (b.selector("cs"), b.outcome(b.run(Op.OP_CLI))) == (CODE1 | 1, (GP, 0))
