"""Instructions that have met devices: direct accesses, exact wherever else they come."""

import random
import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DB,
    DEVICE,
    DEVICE_PHYS,
    GP,
    HLT,
    HOLE,
    IF,
    MIXED,
    NAMES,
    PAGE_FAULT,
    RAM,
    READ_ONLY,
    STACK,
    STACK_FAULT,
    SUPERVISOR,
    TF,
    Board,
)

BYTES = bytes.fromhex("f1d2c3b4a5968778695a4b3c2d1e0f10")
RAM_IN_A_ROW = 64
"""Accesses to RAM after which an instruction is translated plainly again."""

READS = [
    "488B03", "8B03", "668B03", "8A03", "8A23", "408A3B", "0FB603", "0FB703", "660FB603",
    "480FB703", "0FBE03", "0FBF03", "660FBE03", "480FBE03", "480FBF03", "486303", "448B0B",
    "4C8B1B", "8B0424", "8B44CB04", "4B8B4C0B08", "A00000004000000000", "48A10000004000000000",
    "67A100000040", "678B03", "658B04250000F03F", "488B2C2500000040", "488B23", "F28B03",
]  # fmt: skip
WRITES = [
    "488903", "8903", "668903", "8803", "8823", "40883B", "44890B", "4C891B", "488923", "890424",
    "C60385", "C7038877F5E4", "66C7038877", "48C7038877F5E4", "A20000004000000000",
    "66A30000004000000000", "894CCB04", "4689540B08",
]  # fmt: skip


def board_of(cpl: int = 0, *, speculate: bool = True, keep: bool = False) -> Board:
    """A board whose device answers within `run`."""
    board = Board(cpl, speculate=speculate, keep=keep)
    board.p.attach_memory(board.device.read, board.device.write)
    return board


@pytest.fixture
def kernel() -> Board:
    return board_of()


def prepare(board: Board) -> None:
    """Set registers so that every form of READS and WRITES reaches the device."""
    for number, name in enumerate(NAMES):
        board.p.set(name, 0x8182838485868700 + 0x0101010101010101 * number)
    board.set(rbx=DEVICE, rcx=1, r9=0, r11=DEVICE, rsp=DEVICE, gs_base=0x100000, rflags=0x8D7)
    board.device.reads.clear()
    board.device.writes.clear()
    board.device.set(0, BYTES)


def outcome(board: Board, code: str) -> tuple[object, ...]:
    prepare(board)
    kind = board.run(code)
    return kind, board.registers(), list(board.device.reads), list(board.device.writes)


def count(board: Board, name: str) -> int:
    return board.p.counters()[name]


def make_site(board: Board, code: str = "8B03", **registers: int) -> None:
    """Let the instruction meet the device often enough."""
    for _ in range(3):
        board.set(**{"rbx": DEVICE} | registers)
        board.run(code)
    assert count(board, "device_ops") == 1
    board.device.reads.clear()
    board.device.writes.clear()


# --- the access


@pytest.mark.parametrize("code", READS + WRITES)
@pytest.mark.parametrize("attached", [False, True])
def test_direct_access_does_what_the_emulator_does(code: str, attached: bool) -> None:
    board = board_of() if attached else Board()
    first, second, third, fourth = (outcome(board, code) for _ in range(4))

    assert first == second == third == fourth
    assert len(first[2]) + len(first[3]) == 1  # type: ignore[arg-type]  # lists
    assert count(board, "emulated") == count(board, "device_ops") == 2
    assert count(board, "device_sites") == 1
    assert count(board, "mmio_reads") + count(board, "mmio_writes") == 4


@pytest.mark.parametrize("code", ["FF03", "F00903", "8703", "0103", "F3A4", "0F1003", "0FC303"])
def test_other_forms_are_emulated(kernel: Board, code: str) -> None:
    for _ in range(4):
        kernel.set(rbx=DEVICE, rsi=DEVICE, rdi=DATA, rcx=1)
        kernel.run(code)

    assert count(kernel, "device_sites") == 0
    assert count(kernel, "emulated") >= 4


def test_user_code_accesses_devices_too() -> None:
    board = board_of(3)
    for _ in range(4):
        board.enter(3)
        board.set(rbx=DEVICE, rax=0)
        board.device.set(0, BYTES)
        board.run("8B03")

    assert count(board, "device_ops") == 2
    assert board.get("rax") == 0xB4C3D2F1


def test_registers_and_flags_survive_a_loop_over_a_device(kernel: Board) -> None:
    # 1: add r10, [rbx]; mov eax, [rbx]; adc r11, rax; mov [rbx + 16], r11d; dec ecx; jnz 1b
    code = "4C0313 8B03 4911C3 44895B10 FFC9 75F0"
    kernel.device.set(0, BYTES[:4] + bytes(12))
    kernel.set(rbx=DEVICE, rcx=50, r10=0, r11=1, rflags=2)
    kernel.run(code.replace(" ", ""))

    assert len(kernel.device.writes) == 50
    assert kernel.get("r11") == 1 + 50 * 0xB4C3D2F1
    assert count(kernel, "device_ops") >= 2 * 47


@pytest.mark.parametrize("speculate", [False, True])
def test_flags_are_whole_at_the_access(speculate: bool) -> None:
    board = board_of(speculate=speculate)
    for _ in range(4):
        board.set(rbx=DEVICE, rax=(1 << 64) - 1, rcx=1, rflags=2)
        board.run("4801C8 8B13".replace(" ", ""))  # add rax, rcx; mov edx, [rbx]
        assert board.get("rflags") & 0x8D5 == 0x55

    assert count(board, "device_ops") == 2


# --- wherever else it comes


def test_ram_and_then_the_device_again(kernel: Board) -> None:
    make_site(kernel)
    kernel.poke(DATA, 0x1122334455667788)
    kernel.set(rbx=DATA)
    kernel.run("8B03")
    assert kernel.get("rax") == 0x55667788
    kernel.set(rbx=DEVICE)
    kernel.run("8B03")

    assert kernel.device.reads == [(0, 4)]
    assert count(kernel, "emulated") == 2


def test_store_to_ram(kernel: Board) -> None:
    make_site(kernel, "8903")
    kernel.poke(DATA, 0x1122334455667788)
    kernel.set(rbx=DATA + 2, rax=0xAABBCCDD)
    kernel.run("8903")

    assert kernel.peek(DATA) == 0x1122AABBCCDD7788


def test_instruction_that_meets_only_ram_is_plain_again(kernel: Board) -> None:
    make_site(kernel)
    # 1: mov eax, [rbx]; dec ecx; jnz 1b
    kernel.set(rbx=DATA, rcx=5 * RAM_IN_A_ROW)
    kernel.run("8B03FFC975FA")

    assert count(kernel, "device_ends") == 1
    assert count(kernel, "device_ops") == 1 + RAM_IN_A_ROW


def test_instruction_that_serves_both_changes_ever_less_often(kernel: Board) -> None:
    # 1: mov eax, [rbx]; dec ecx; jnz 1b
    for _ in range(200):
        kernel.set(rbx=DATA, rcx=RAM_IN_A_ROW + 1)
        kernel.run("8B03FFC975FA")
        kernel.set(rbx=DEVICE, rcx=1)
        kernel.run("8B03FFC975FA")

    assert 2 <= count(kernel, "device_sites") <= 5


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize(
    ("linear", "code", "vector", "error"),
    [
        (HOLE + 8, "8B03", PAGE_FAULT, 0),
        (HOLE + 8, "8903", PAGE_FAULT, 2),
        (READ_ONLY, "8903", PAGE_FAULT, 3),
        (SUPERVISOR, "8B03", PAGE_FAULT, 1),
        (1 << 47, "8B03", GP, 0),
        ((1 << 47) - 2, "8B03", GP, 0),
        (HOLE - 2, "8B03", PAGE_FAULT, 0),
    ],
)
def test_fault(cpl: int, linear: int, code: str, vector: int, error: int) -> None:
    board = board_of(cpl)
    make_site_at(board, cpl, code)
    board.enter(cpl)
    board.set(rbx=linear, rax=0x1234)
    board.run(code)
    if linear == SUPERVISOR and not cpl:
        assert board.raised() is None
        return

    frame = board.get("rsp")
    assert board.raised() == vector
    assert board.peek(frame) == (error | 4 if cpl and vector == PAGE_FAULT else error)
    assert board.peek(frame + 8) == CODE
    assert board.get("rax") == 0x1234
    if vector == PAGE_FAULT:
        assert board.get("cr2") == (HOLE if linear == HOLE - 2 else linear)


def make_site_at(board: Board, cpl: int, code: str) -> None:
    for _ in range(3):
        board.enter(cpl)
        board.set(rbx=DEVICE)
        board.run(code)
    assert count(board, "device_ops") == 1


def test_stack_fault(kernel: Board) -> None:
    make_site(kernel, "8B4500", rbp=DEVICE)
    kernel.set(rbp=1 << 47)
    kernel.run("8B4500")

    assert kernel.raised() == STACK_FAULT


def test_store_into_its_own_fragment_is_executed(kernel: Board) -> None:
    # mov [rbx], eax; mov ecx, 1
    code = bytes.fromhex("8903B901000000")
    for _ in range(3):
        kernel.set(rbx=DEVICE)
        kernel.run(code)
    kernel.set(rbx=CODE + 3, rax=0x77)
    kernel.run(code)

    assert kernel.get("rcx") == 0x77


def test_another_device(kernel: Board) -> None:
    make_site(kernel)
    kernel.set(rbx=DEVICE + 0x1008)
    kernel.run("8B03")

    assert kernel.device.reads == [(0x1008, 4)]


@pytest.mark.parametrize(
    ("linear", "reads"),
    [(DEVICE + 1, [(1, 1), (2, 2), (4, 1)]), (MIXED + 0xFFE, [(0, 2)])],
)
def test_access_in_parts(kernel: Board, linear: int, reads: list[tuple[int, int]]) -> None:
    make_site(kernel)
    kernel.device.set(0, BYTES)
    kernel.p.write_phys(MIXED + 0xFFE, b"\x01\x02")
    kernel.set(rbx=linear)
    kernel.run("8B03")

    want = BYTES[1:5] if linear == DEVICE + 1 else b"\x01\x02" + BYTES[:2]
    assert kernel.device.reads == reads
    assert kernel.get("rax") == int.from_bytes(want, "little")


def test_parts_are_not_written_before_all_pages_are_checked(kernel: Board) -> None:
    make_site(kernel, "8903")
    kernel.set(rbx=DEVICE + 0x1FFE)
    kernel.run("8903")

    assert kernel.raised() == PAGE_FAULT
    assert kernel.device.writes == []


def test_mapping_that_changes_between_two_accesses(kernel: Board) -> None:
    make_site(kernel)
    # mov eax, [rbx]; mov [rsi], rdi; invlpg [rbx]; mov ecx, [rbx]
    kernel.poke(DATA, 0xCAFE)
    code = "8B03 48893E 0F013B 8B0B".replace(" ", "")
    kernel.set(rbx=DEVICE, rsi=0x9000, rdi=DATA | 7)
    kernel.run(code)

    assert kernel.device.reads == [(0, 4)]
    assert kernel.get("rcx") == 0xCAFE


# --- code that changes, and kept translations


def test_other_code_at_the_place_of_a_site(kernel: Board) -> None:
    make_site(kernel)
    kernel.set(rbx=DATA, rcx=5)
    kernel.run("01D9")  # add ecx, ebx
    assert kernel.get("rcx") == DATA + 5

    kernel.poke(DATA, 0x99)
    kernel.run("8B0B")  # mov ecx, [rbx]
    assert kernel.get("rcx") == 0x99


def test_kept_translation_does_not_bring_the_faults_back() -> None:
    board = board_of(keep=True)
    make_site(board)
    assert board.p.kept.added == 2  # the MOV as it was, and the HLT after it
    for _ in range(3):
        board.set(rbx=DEVICE)
        board.run("8B03")

    assert count(board, "device_ops") == 4
    assert count(board, "emulated") == 2


def test_kept_translation_is_a_plain_one() -> None:
    board = board_of(keep=True)
    make_site(board)
    board.p.write_phys(CODE + 0x1000, bytes.fromhex("8B03") + HLT)
    board.set(rbx=DATA, rip=CODE + 0x1000)
    board.go()

    assert count(board, "device_ops") == 1
    assert count(board, "kept_fragments") >= 1


def test_hot_page(kernel: Board) -> None:
    # mov ecx, 200; 1: mov [rip + 0x7ee], ecx; mov eax, [rbx]; mov [rbx], ecx; dec ecx; jnz 1b
    kernel.set(rbx=DEVICE)
    kernel.device.set(0, BYTES)
    kernel.run("B9C8000000 890DEE070000 8B03 890B FFC9 75F2".replace(" ", ""))

    assert len(kernel.device.writes) == 200
    assert count(kernel, "device_ops") >= 2 * 180
    assert kernel.get("rax") == 2


# --- events


def test_single_step(kernel: Board) -> None:
    make_site(kernel)
    kernel.set(rbx=DEVICE, rflags=TF | 2)
    kernel.run("8B0390")

    assert kernel.raised() == DB
    assert kernel.peek(kernel.get("rsp")) == CODE + 2
    assert kernel.device.reads == [(0, 4)]


@pytest.mark.parametrize(("code", "kind"), [("8B03", 3), ("8903", 1), ("8903", 3)])
def test_data_breakpoint(kernel: Board, code: str, kind: int) -> None:
    make_site(kernel, code)
    kernel.set(dr0=DEVICE, dr7=1 | kind << 16 | 3 << 18, rbx=DEVICE)
    kernel.run(code + "90")

    assert kernel.raised() == DB
    assert kernel.peek(kernel.get("rsp")) == CODE + 2
    assert kernel.get("dr6") & 15 == 1


def test_watched_guest_is_not_changed() -> None:
    board = board_of()
    board.p.watch_blocks(64)
    for _ in range(5):
        board.set(rbx=DEVICE)
        board.run("8B03")

    assert count(board, "device_sites") == 0
    assert len(board.device.reads) == 5


def test_interrupt_that_comes_during_an_access_follows_it(kernel: Board) -> None:
    make_site(kernel)

    def read(_phys: int, _size: int) -> int:
        kernel.p.set_interrupt(True)
        return 5

    kernel.p.attach_memory(read, kernel.device.write)
    kernel.set(rbx=DEVICE, rflags=IF | 2)

    assert kernel.run("8B0390") == Exit.EXIT_WINDOW
    assert (kernel.get("rax"), kernel.get("rip")) == (5, CODE + 2)


def test_code_that_the_device_changes_is_seen(kernel: Board) -> None:
    make_site(kernel, "8903B901000000")

    def write(_phys: int, _size: int, _value: int) -> None:
        kernel.p.write_phys(CODE + 3, b"\x55")

    kernel.p.attach_memory(kernel.device.read, write)
    kernel.set(rbx=DEVICE)
    kernel.run("8903B901000000")

    assert kernel.get("rcx") == 0x55


def test_error_of_a_device_ends_the_run_and_no_more(kernel: Board) -> None:
    make_site(kernel)

    def read(_phys: int, _size: int) -> int:
        raise OSError("broken")

    kernel.p.attach_memory(read, kernel.device.write)
    kernel.set(rbx=DEVICE)
    with pytest.raises(OSError, match="broken"):
        kernel.run("8B03")


# --- as an attacker would


def addresses() -> list[int]:
    """Addresses near all edges, and random ones."""
    rng = random.Random(14)
    edges = [
        0, CODE, DATA, HOLE, READ_ONLY, SUPERVISOR, MIXED, MIXED + 0x1000, DEVICE, DEVICE + 0x2000,
        RAM, 1 << 31, 1 << 32, 1 << 36, 1 << 46, 1 << 47, 1 << 48, 1 << 63, (1 << 64) - (1 << 47),
        (1 << 64) - (1 << 36), 1 << 64, DEVICE_PHYS,
    ]  # fmt: skip
    near = [edge + offset for edge in edges for offset in (-8, -4, -2, -1, 0, 1, 4)]
    wild = [rng.getrandbits(rng.choice((22, 31, 38, 47, 64))) for _ in range(200)]
    return [address % (1 << 64) for address in near + wild]


@pytest.mark.parametrize("code", ["488B03", "8903", "668B5B02", "C6437F11", "8B4508"])
@pytest.mark.parametrize("cpl", [0, 3])
def test_site_reaches_exactly_what_a_plain_instruction_reaches(code: str, cpl: int) -> None:
    """Instructions of a watched guest do not become sites."""
    direct, plain = board_of(cpl), board_of(cpl)
    plain.p.watch_blocks(64)
    for address in addresses():
        for _ in range(3):
            end(direct, cpl, code, DEVICE)
        assert end(direct, cpl, code, address) == end(plain, cpl, code, address), hex(address)

    assert count(plain, "device_ops") == 0
    assert count(direct, "device_ops") > 4 * len(addresses()) - 4


def end(board: Board, cpl: int, code: str, address: int) -> tuple[object, ...]:
    """Execute `code` at an address; return registers, fault, memory and accesses.

    Memory is without the page tables, of which only one board's say that the device was accessed.
    """
    board.enter(cpl)
    board.set(rax=0x1122334455667788, rbx=address, rbp=address, cr2=0)
    board.p.write_phys(DATA - 32, bytes(64))
    board.device.reads.clear()
    board.device.writes.clear()
    board.run(code)
    return (
        board.registers(), board.get("cr2"), board.raised(), board.p.read_phys(0xA000, 0x80000),
        board.device.reads[:], board.device.writes[:],
    )  # fmt: skip


def test_sites_of_any_number_are_exact(kernel: Board) -> None:
    """There are more sites than entries, all of them accessing the device and RAM in turn."""
    body = bytes.fromhex("8B03 4801C6 8907".replace(" ", "")) * 1500  # mov, add rsi, rax; mov
    loop = body + bytes.fromhex("FFC9 0F85".replace(" ", ""))
    code = loop + struct.pack("<i", -(len(loop) + 4))
    kernel.device.set(0, struct.pack("<I", 3))
    kernel.set(rbx=DEVICE, rdi=DEVICE + 4, rsi=0, rcx=6, rsp=STACK)
    kernel.run(code)

    assert kernel.get("rsi") == 6 * 1500 * 3
    assert len(kernel.device.writes) == len(kernel.device.reads) == 6 * 1500
    assert count(kernel, "device_ops") > 3000
