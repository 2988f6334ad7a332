"""The general emulator on device memory, also when translated code leaves to it."""

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DB,
    DEVICE,
    DEVICE_PHYS,
    HLT,
    HOLE,
    MIXED,
    PAGE_FAULT,
    STACK,
    TF,
    ZF,
    Board,
)

BYTES = bytes(range(0x11, 0x31))


@pytest.fixture
def kernel() -> Board:
    board = Board(0)
    board.device.set(0, BYTES)
    board.set(rbx=DEVICE)
    return board


def little(data: bytes) -> int:
    return int.from_bytes(data, "little")


@pytest.mark.parametrize(
    ("code", "size", "value"),
    [
        ("488B03", 8, little(BYTES[:8])),
        ("8B03", 4, little(BYTES[:4])),
        ("668B03", 2, 0xFFFFFFFFFFFF0000 | little(BYTES[:2])),
        ("8A03", 1, 0xFFFFFFFFFFFFFF11),
        ("0FB603", 1, 0x11),
        ("0FB703", 2, 0x1211),
        ("480FBE03", 1, 0x11),
        ("486303", 4, 0x14131211),
        ("0FBD03", 4, 28),
        ("0F38F003", 4, 0x11121314),
        ("F30FB803", 4, 0x14131211.bit_count()),
        ("488B042500000040", 8, little(BYTES[:8])),
    ],
)
def test_a_load_asks_the_device_once(kernel: Board, code: str, size: int, value: int) -> None:
    kernel.set(rax=-1)
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(0, size)]
    assert kernel.get("rax") == value
    assert not kernel.device.writes


@pytest.mark.parametrize(
    ("code", "size", "value"),
    [
        ("488903", 8, 0x0123456789ABCDEF),
        ("8903", 4, 0x89ABCDEF),
        ("668903", 2, 0xCDEF),
        ("8803", 1, 0xEF),
        ("8823", 1, 0xCD),
        ("C70378563412", 4, 0x12345678),
        ("48C703FFFFFFFF", 8, (1 << 64) - 1),
        ("0FC303", 4, 0x89ABCDEF),
        ("0F9403", 1, 1),
        ("660F3A160301", 4, 0x55555555),
        ("660FD603", 8, 0x5555555555555555),
    ],
)
def test_a_store_reaches_the_device_once(kernel: Board, code: str, size: int, value: int) -> None:
    kernel.set(rax=0x0123456789ABCDEF, rflags=ZF | 2)
    kernel.set_vectors(xmm0=b"\x55" * 16)
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.writes == [(0, size, value)]
    assert not kernel.device.reads


@pytest.mark.parametrize(
    ("code", "stored", "rax"),
    [
        ("0103", 0x14131211 + 5, 5),
        ("8703", 5, 0x14131211),
        ("F00FC103", 0x14131211 + 5, 0x14131211),
        ("FF03", 0x14131212, 5),
        ("F713", 0x14131211 ^ 0xFFFFFFFF, 5),
        ("C12304", 0x41312110, 5),
        ("0FBA2B1F", 0x94131211, 5),
        ("F00FB10B", 0x14131211, 0x14131211),
    ],
)
def test_a_change_in_place_reads_then_writes(
    kernel: Board, code: str, stored: int, rax: int
) -> None:
    kernel.set(rax=5)
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == [(0, 4)]
    assert kernel.device.writes == [(0, 4, stored)]
    assert kernel.get("rax") == rax


def test_compares_and_tests_only_read(kernel: Board) -> None:
    kernel.set(rax=0x14131211)
    assert kernel.run("3B03") == Exit.EXIT_HLT
    assert kernel.get("rflags") & ZF
    assert not kernel.device.writes


@pytest.mark.parametrize(
    ("offset", "code", "reads"),
    [
        (0, "0F2803", [(0, 8), (8, 8)]),
        (0, "C5FC2803", [(0, 8), (8, 8), (16, 8), (24, 8)]),
        (1, "8B03", [(1, 1), (2, 2), (4, 1)]),
        (4, "488B03", [(4, 4), (8, 4)]),
        (2, "8B03", [(2, 2), (4, 2)]),
        (6, "668B03", [(6, 2)]),
        (0xFFC, "488B03", [(0xFFC, 4), (0x1000, 4)]),
        (0, "DB2B", [(0, 8), (8, 2)]),
    ],
)
def test_accesses_are_naturally_aligned(
    kernel: Board, offset: int, code: str, reads: list[tuple[int, int]]
) -> None:
    kernel.set(rbx=DEVICE + offset)
    assert kernel.run(code) == Exit.EXIT_HLT
    assert kernel.device.reads == reads


def test_vectors_move_through_devices(kernel: Board) -> None:
    assert kernel.run("C5FC2803C5FC114340") == Exit.EXIT_HLT
    assert kernel.vector(0) == BYTES
    assert kernel.device.get(0x40, 32) == BYTES


def test_an_operand_partly_in_ram(kernel: Board) -> None:
    kernel.poke(MIXED + 0xFF8, 0xAABBCCDD_00000000)
    kernel.set(rbx=MIXED + 0xFFC)
    assert kernel.run("480103") == Exit.EXIT_HLT  # add [rbx], rax
    assert kernel.device.reads == [(0, 4)]
    assert kernel.device.writes == [(0, 4, little(BYTES[:4]))]
    kernel.set(rax=1)
    assert kernel.run("480103") == Exit.EXIT_HLT
    assert kernel.peek(MIXED + 0xFF8) == 0xAABBCCDE_00000000


def test_push_and_pop(kernel: Board) -> None:
    kernel.set(rsp=DEVICE + 0x108, rax=0x77)
    assert kernel.run("50FF3359") == Exit.EXIT_HLT
    assert kernel.device.writes == [(0x100, 8, 0x77), (0xF8, 8, little(BYTES[:8]))]
    assert kernel.get("rcx") == little(BYTES[:8])
    assert kernel.get("rsp") == DEVICE + 0x100


def test_pop_to_a_device(kernel: Board) -> None:
    kernel.poke(STACK, 0x88)
    assert kernel.run("8F03") == Exit.EXIT_HLT
    assert kernel.device.writes == [(0, 8, 0x88)]


def test_a_return_through_a_device(kernel: Board) -> None:
    kernel.device.set(0, (CODE + 0x100).to_bytes(8, "little"))
    kernel.p.write_phys(CODE + 0x100, HLT)
    kernel.set(rsp=DEVICE)
    assert kernel.run("C3") == Exit.EXIT_HLT
    assert (kernel.get("rip"), kernel.get("rsp")) == (CODE + 0x101, DEVICE + 8)


def test_a_call_through_a_device(kernel: Board) -> None:
    kernel.device.set(0, (CODE + 0x100).to_bytes(8, "little"))
    kernel.p.write_phys(CODE + 0x100, HLT)
    assert kernel.run("FF13") == Exit.EXIT_HLT
    assert kernel.get("rip") == CODE + 0x101
    assert kernel.peek(STACK - 8) == CODE + 2


@pytest.mark.parametrize("count", [1, 3, 100])
def test_rep_stos_to_a_device(kernel: Board, count: int) -> None:
    kernel.set(rdi=DEVICE, rcx=count, rax=0x5A5A)
    assert kernel.run("F366AB") == Exit.EXIT_HLT
    assert kernel.device.writes == [(2 * i, 2, 0x5A5A) for i in range(count)]
    assert (kernel.get("rdi"), kernel.get("rcx")) == (DEVICE + 2 * count, 0)


def test_rep_movs_from_a_device(kernel: Board) -> None:
    kernel.set(rsi=DEVICE, rdi=DATA, rcx=4)
    assert kernel.run("F348A5") == Exit.EXIT_HLT
    assert kernel.p.read_phys(DATA, 32) == BYTES


def test_rep_movs_from_ram_into_a_device(kernel: Board) -> None:
    kernel.p.write_phys(MIXED + 0xFF0, BYTES)
    kernel.set(rsi=MIXED + 0xFF0, rdi=MIXED + 0xFF8, rcx=2)
    assert kernel.run("F348A5") == Exit.EXIT_HLT
    assert kernel.peek(MIXED + 0xFF8) == little(BYTES[:8])
    assert kernel.device.writes == [(0, 8, little(BYTES[:8]))]


def test_repne_scas_of_a_device(kernel: Board) -> None:
    kernel.set(rdi=DEVICE, rax=0x14, rcx=100)
    assert kernel.run("F2AE") == Exit.EXIT_HLT
    assert kernel.get("rcx") == 96
    assert kernel.get("rflags") & ZF


def test_bit_tests_reach_far(kernel: Board) -> None:
    kernel.set(rbx=DEVICE + 0x800, rax=-0x800 * 8 + 5)
    assert kernel.run("480FAB03") == Exit.EXIT_HLT  # bts [rbx], rax
    assert kernel.device.reads == [(0, 8)]
    assert kernel.device.writes == [(0, 8, little(BYTES[:8]) | 0x20)]
    assert kernel.get("rax") == (1 << 64) - 0x800 * 8 + 5


def test_user_code_reaches_a_device_that_is_mapped_for_it(kernel: Board) -> None:
    user = Board(3)
    user.device.set(0, BYTES)
    user.set(rbx=DEVICE)
    user.place("488B03")
    assert user.p.run() == Exit.EXIT_MMIO_READ
    user.p.complete(0x42)
    assert user.get("rax") == 0x42


# --- the protocol


def test_a_read_waits_for_its_value_with_nothing_changed(kernel: Board) -> None:
    kernel.place("480303")  # add rax, [rbx]
    kernel.set(rax=1)
    before = kernel.registers()
    assert kernel.p.run() == Exit.EXIT_MMIO_READ
    info = kernel.p.exit_info()
    assert (info.phys, info.size) == (DEVICE_PHYS, 8)
    # Status flags that the instruction overwrites are lost already.
    assert kernel.registers() | {"rflags": 0} == before | {"rflags": 0}
    kernel.p.complete(41)
    assert kernel.get("rax") == 42
    assert kernel.get("rip") == CODE + 3
    assert kernel.p.run() == Exit.EXIT_HLT


def test_a_write_need_not_be_completed(kernel: Board) -> None:
    kernel.place("488903")
    assert kernel.p.run() == Exit.EXIT_MMIO_WRITE
    assert kernel.get("rip") == CODE + 3
    assert kernel.p.run() == Exit.EXIT_HLT


def test_the_second_part_of_a_read_follows_complete(kernel: Board) -> None:
    kernel.place("0F2803")
    assert kernel.p.run() == Exit.EXIT_MMIO_READ
    kernel.p.complete(1)
    assert kernel.p.run() == Exit.EXIT_MMIO_READ
    assert kernel.p.exit_info().phys == DEVICE_PHYS + 8
    kernel.p.complete(2)
    assert kernel.p.run() == Exit.EXIT_HLT
    assert kernel.vector(0)[:16] == b"\1" + bytes(7) + b"\2" + bytes(7)


def test_a_value_is_cut_to_the_size_of_the_access(kernel: Board) -> None:
    kernel.place("0FB603")
    assert kernel.p.run() == Exit.EXIT_MMIO_READ
    kernel.p.complete(0xFFFFFF42)
    assert kernel.get("rax") == 0x42


def test_a_trap_comes_after_the_device(kernel: Board) -> None:
    kernel.place("488B03")
    kernel.set(rflags=TF | 2)
    assert kernel.p.run() == Exit.EXIT_MMIO_READ
    kernel.p.complete(7)
    assert kernel.get("rax") == 7
    assert kernel.raised() == DB


def test_a_fault_of_the_write_comes_before_the_device_is_asked(kernel: Board) -> None:
    kernel.set(rsi=DEVICE, rdi=HOLE)
    kernel.emulate("A4")  # movsb
    assert kernel.raised() == PAGE_FAULT
    assert not kernel.device.reads


def test_a_loop_over_a_device(kernel: Board) -> None:
    # loop: mov rax, [rbx]; inc rax; mov [rbx + 8], rax; dec ecx; jnz loop
    kernel.set(rcx=200)
    assert kernel.run("488B0348FFC048894308FFC975F2") == Exit.EXIT_HLT
    assert len(kernel.device.reads) == len(kernel.device.writes) == 200
    assert kernel.p.get("rcx") == 0
