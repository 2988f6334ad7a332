"""IN, OUT, INS, OUTS: permission by IOPL and the TSS's bitmap, and the exits."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    DF_FLAG,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    FS,
    GP,
    HOLE,
    KERNEL_CODE,
    PF,
    READ_ONLY,
    TSS,
    TSS_SEL,
    USER_DATA,
    Bench,
)  # fmt: skip

IO_IN, IO_OUT = 1, 2
REP, ADDR32 = 1, 8
BITMAP = TSS + 0x68


def allow(b: Bench, port: int, size: int) -> None:
    """Clear the bits of a port in the bitmap."""
    first = port >> 3
    bits = int.from_bytes(b.p.read_phys(BITMAP + first, 2), "little")
    bits &= ~(((1 << size) - 1) << (port & 7))
    b.p.write_phys(BITMAP + first, bits.to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("code", "size", "port"),
    [
        (b"\xe4\x80", 1, 0x80),
        (b"\x66\xe5\x80", 2, 0x80),
        (b"\xe5\x80", 4, 0x80),
        (b"\xec", 1, 0x3F8),
        (b"\xed", 4, 0x3F8),
    ],
)
def test_in_leaves_and_completes(kernel: Bench, code: bytes, size: int, port: int) -> None:
    kernel.set(rdx=0xABCD03F8, rax=0xAAAAAAAAAAAAAAAA)
    assert kernel.run(Op.OP_IN, imm=-128, size=size, code=code) == EMU_EXIT
    assert kernel.get("exit_kind") == IO_IN
    assert (kernel.get("io_port"), kernel.get("io_size"), kernel.get("io_count")) == (port, size, 1)
    assert kernel.get("rip") == KERNEL_CODE
    assert kernel.p.complete(0x11223344) == EMU_NEXT
    expected = {1: 0xAAAAAAAAAAAAAA44, 2: 0xAAAAAAAAAAAA3344, 4: 0x11223344}[size]
    assert kernel.get("rax") == expected
    assert kernel.get("rip") == KERNEL_CODE + len(code)


def test_out_is_done_when_it_leaves(kernel: Bench) -> None:
    kernel.set(rdx=0x70, rax=0x1122334455667788)
    assert kernel.run(Op.OP_OUT, size=2, code=b"\x66\xef") == EMU_EXIT
    assert kernel.get("exit_kind") == IO_OUT
    assert (kernel.get("io_port"), kernel.get("io_data")) == (0x70, 0x7788)
    assert kernel.get("rip") == KERNEL_CODE + 2
    assert kernel.p.complete() == EMU_NEXT
    assert kernel.get("rip") == KERNEL_CODE + 2


# --- permission


def out(b: Bench, port: int, size: int = 1) -> int:
    b.set(rdx=port)
    return b.run(Op.OP_OUT, size=size, code=b"\xee")


def test_iopl_allows_every_port(user: Bench) -> None:
    user.set(rflags=0x3202)
    user.p.set_segment("tr", 0, 0, 0, 1 << 16)
    assert out(user, 0x60) == EMU_EXIT


@pytest.mark.parametrize("port", [0, 7, 8, 0x3F8, 0xFFFF])
def test_bitmap_allows_one_port(user: Bench, port: int) -> None:
    assert out(user, port) == EMU_FAULT
    assert user.fault() == (GP, 0)
    allow(user, port, 1)
    assert out(user, port) == EMU_EXIT


@pytest.mark.parametrize(("port", "size"), [(0x60, 2), (0x67, 2), (0x65, 4), (0x60, 4)])
def test_every_byte_of_a_wide_port_needs_its_bit(user: Bench, port: int, size: int) -> None:
    allow(user, port, size - 1)
    assert out(user, port, size) == EMU_FAULT
    allow(user, port, size)
    assert out(user, port, size) == EMU_EXIT


def test_tss_without_a_map_base_denies(user: Bench) -> None:
    allow(user, 0, 1)
    user.p.set_segment("tr", TSS_SEL, TSS, 102, 0x8B)
    assert out(user, 0) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_both_bytes_of_the_map_must_be_within_the_limit(user: Bench) -> None:
    allow(user, 0x10, 1)
    user.p.set_segment("tr", TSS_SEL, TSS, 0x68 + 2, 0x8B)
    assert out(user, 0x10) == EMU_FAULT
    user.p.set_segment("tr", TSS_SEL, TSS, 0x68 + 3, 0x8B)
    assert out(user, 0x10) == EMU_EXIT


def test_map_base_beyond_the_limit_denies(user: Bench) -> None:
    user.p.write_phys(TSS + 102, struct.pack("<H", 0x2101))
    assert out(user, 0) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_unmapped_bitmap_page_faults(user: Bench) -> None:
    user.map(0x8000, 0)
    assert out(user, 0x7FFF) == EMU_FAULT
    assert user.fault() == (PF, 0)


@pytest.mark.parametrize("op", [Op.OP_IN, Op.OP_INS, Op.OP_OUTS])
def test_all_port_instructions_check(user: Bench, op: int) -> None:
    user.set(rdx=0x60, rdi=USER_DATA, rsi=USER_DATA)
    assert user.run(op, size=1, code=b"\xec") == EMU_FAULT
    assert user.fault() == (GP, 0)


# --- strings


def test_ins_writes_memory_and_steps(kernel: Bench) -> None:
    kernel.set(rdx=0x1F0, rdi=USER_DATA, rcx=7)
    kernel.poke(USER_DATA, -1)
    assert kernel.run(Op.OP_INS, size=2, code=b"\x66\x6d") == EMU_EXIT
    assert kernel.get("exit_kind") == IO_IN
    assert kernel.p.complete(0x1234) == EMU_FLOW
    assert kernel.q(USER_DATA) == [0xFFFFFFFFFFFF1234]
    assert (kernel.get("rdi"), kernel.get("rcx")) == (USER_DATA + 2, 7)
    assert kernel.get("rip") == KERNEL_CODE + 2


def test_rep_ins_repeats_until_the_count_is_zero(kernel: Bench) -> None:
    kernel.set(rdx=0x1F0, rdi=USER_DATA, rcx=3)
    for count in (2, 1):
        assert kernel.run(Op.OP_INS, size=1, flags=REP, code=b"\xf3\x6c") == EMU_EXIT
        kernel.p.complete(count)
        assert (kernel.get("rcx"), kernel.get("rip")) == (count, KERNEL_CODE)
    kernel.run(Op.OP_INS, size=1, flags=REP, code=b"\xf3\x6c")
    kernel.p.complete(9)
    assert (kernel.get("rcx"), kernel.get("rip")) == (0, KERNEL_CODE + 2)
    assert kernel.p.read_phys(USER_DATA, 3) == b"\x02\x01\x09"


@pytest.mark.parametrize("op", [Op.OP_INS, Op.OP_OUTS])
def test_rep_with_a_zero_count_does_nothing(kernel: Bench, op: int) -> None:
    kernel.set(rdx=0x1F0, rcx=0, rdi=HOLE, rsi=HOLE)
    assert kernel.run(op, size=1, flags=REP, code=b"\xf3\x6c") == EMU_NEXT
    assert kernel.get("rip") == KERNEL_CODE + 2


@pytest.mark.parametrize("op", [Op.OP_INS, Op.OP_OUTS])
def test_rep_with_a_zero_count_still_needs_the_port(user: Bench, op: int) -> None:
    user.set(rdx=0x1F0, rcx=0, rdi=HOLE, rsi=HOLE)
    assert user.run(op, size=1, flags=REP, code=b"\xf3\x6c") == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_ins_checks_its_memory_before_the_port_is_read(kernel: Bench) -> None:
    kernel.set(rdx=0x1F0, rdi=READ_ONLY)
    assert kernel.run(Op.OP_INS, size=4, code=b"\x6d") == EMU_FAULT
    assert kernel.fault() == (PF, 3)
    kernel.set(rdi=HOLE - 2)
    assert kernel.run(Op.OP_INS, size=4, code=b"\x6d") == EMU_FAULT
    assert kernel.fault() == (PF, 2)
    assert kernel.get("exc_cr2") == HOLE


def test_outs_reads_memory_and_steps_down_with_df(kernel: Bench) -> None:
    kernel.set(rdx=0x1F0, rsi=USER_DATA + 4, rcx=2, rflags=2 | DF_FLAG)
    kernel.poke(USER_DATA, 0x1122334455667788)
    assert kernel.run(Op.OP_OUTS, size=4, flags=REP, code=b"\xf3\x6f") == EMU_EXIT
    assert kernel.get("io_data") == 0x11223344
    assert (kernel.get("rsi"), kernel.get("rcx"), kernel.get("rip")) == (USER_DATA, 1, KERNEL_CODE)
    assert kernel.run(Op.OP_OUTS, size=4, flags=REP, code=b"\xf3\x6f") == EMU_EXIT
    assert kernel.get("io_data") == 0x55667788
    assert (kernel.get("rcx"), kernel.get("rip")) == (0, KERNEL_CODE + 2)


def test_outs_takes_a_segment_override(kernel: Bench) -> None:
    kernel.p.set_segment("fs", 0, USER_DATA - 0x100, 0xFFFFFFFF, 0xC093)
    kernel.poke(USER_DATA, 0x77)
    kernel.set(rdx=0x80, rsi=0x100)
    assert kernel.run(Op.OP_OUTS, size=1, segment=FS, code=b"\x64\x6e") == EMU_EXIT
    assert kernel.get("io_data") == 0x77


def test_32_bit_addresses_wrap_and_zero_extend(kernel: Bench) -> None:
    kernel.set(rdx=0x80, rdi=0xFFFFFFFF00000000 | USER_DATA, rcx=0xFFFFFFFF00000001)
    assert kernel.run(Op.OP_INS, size=1, flags=REP | ADDR32, code=b"\x67\xf3\x6c") == EMU_EXIT
    kernel.p.complete(5)
    assert (kernel.get("rdi"), kernel.get("rcx")) == (USER_DATA + 1, 0)
    assert kernel.p.read_phys(USER_DATA, 1) == b"\x05"


def test_outs_from_unmapped_memory(kernel: Bench) -> None:
    kernel.set(rdx=0x80, rsi=HOLE)
    assert kernel.run(Op.OP_OUTS, size=1, code=b"\x6e") == EMU_FAULT
    assert kernel.fault() == (PF, 0)
