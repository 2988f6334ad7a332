"""The general emulator: masked moves, gathers and XLAT, on RAM, on devices, and into faults."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import (
    CODE,
    DATA,
    DEVICE,
    HOLE,
    PAGE_FAULT,
    READ_ONLY,
    UD,
    Board,
)

ON, OFF = 0xFFFFFFFF, 0x7FFFFFFF


@pytest.fixture
def kernel() -> Board:
    board = Board(0)
    board.p.write_phys(DATA, struct.pack("<256I", *range(100, 356)))
    return board


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *(v & 0xFFFFFFFF for v in values))


def quads(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *(v & (1 << 64) - 1 for v in values))


def read_words(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


# --- masked moves


def test_a_masked_load_zeroes_the_lanes_that_are_off(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(ymm1=words(ON, 0, ON, ON, OFF, 0, 0, ON), ymm0=b"\xee" * 32)
    kernel.emulate("C4E2752C03")  # vmaskmovps ymm0, ymm1, [rbx]
    assert read_words(kernel.vector(0)) == [100, 0, 102, 103, 0, 0, 0, 107]
    assert kernel.get("rip") == CODE + 5


def test_a_masked_store_keeps_the_lanes_that_are_off(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(ymm1=quads(0, 1 << 63, 0, -1), ymm0=quads(1, 2, 3, 4))
    kernel.emulate("C4E2F58E03")  # vpmaskmovq [rbx], ymm1, ymm0
    assert read_words(kernel.p.read_phys(DATA, 32)) == [100, 101, 2, 0, 104, 105, 4, 0]


@pytest.mark.parametrize("code", ["C4E2752C03", "C4E2752E03"])
def test_lanes_that_are_off_do_not_fault(kernel: Board, code: str) -> None:
    kernel.poke(HOLE - 16, 5, 6)
    kernel.set(rbx=HOLE - 16)
    kernel.set_vectors(ymm1=words(0, 0, 0, ON), ymm0=words(0, 0, 0, 9))
    kernel.emulate(code)
    assert kernel.raised() is None


@pytest.mark.parametrize("code", ["C4E2752C03", "C4E2752E03"])
def test_no_lane_at_all(kernel: Board, code: str) -> None:
    kernel.set(rbx=HOLE)
    kernel.set_vectors(ymm0=b"\x11" * 32)
    kernel.emulate(code)
    assert kernel.get("rip") == CODE + 5


def test_a_masked_load_that_faults_changes_nothing(kernel: Board) -> None:
    kernel.set(rbx=HOLE - 16)
    kernel.set_vectors(ymm1=words(ON, 0, 0, 0, 0, ON), ymm0=b"\x22" * 32)
    kernel.emulate("C4E2752C03")
    assert kernel.raised() == PAGE_FAULT
    assert kernel.get("cr2") == HOLE + 4
    assert kernel.vector(0) == b"\x22" * 32


def test_a_masked_store_that_faults_stores_nothing(kernel: Board) -> None:
    kernel.poke(READ_ONLY - 16, 5, 6)
    kernel.set(rbx=READ_ONLY - 16)
    kernel.set_vectors(ymm1=words(ON, 0, 0, 0, ON), ymm0=b"\x22" * 32)
    kernel.emulate("C4E2752E03")
    assert kernel.raised() == PAGE_FAULT
    assert kernel.peek(READ_ONLY - 16) == 5


def test_a_masked_load_asks_a_device_for_its_lanes_only(kernel: Board) -> None:
    kernel.device.set(0, words(1, 2, 3, 4, 5, 6, 7, 8))
    kernel.set(rbx=DEVICE)
    kernel.set_vectors(ymm1=words(0, ON, 0, 0, ON, ON))
    assert kernel.run("C4E2752C03") == Exit.EXIT_HLT
    assert kernel.device.reads == [(4, 4), (16, 8)]
    assert read_words(kernel.vector(0)) == [0, 2, 0, 0, 5, 6, 0, 0]


@pytest.mark.parametrize("code", ["660FF7C1", "67660FF7C1", "C5F9F7C1"])
def test_bytes_are_stored_under_a_mask(kernel: Board, code: str) -> None:
    kernel.set(rdi=DATA)
    kernel.set_vectors(xmm0=bytes(range(16)), xmm1=b"\x80\x7f\x00\xff" * 4)
    assert kernel.run(code) == Exit.EXIT_HLT  # maskmovdqu xmm0, xmm1
    expected = bytearray(words(100, 101, 102, 103))
    for i in range(16):
        if i % 4 in {0, 3}:
            expected[i] = i
    assert kernel.p.read_phys(DATA, 16) == expected
    assert kernel.get("rdi") == DATA


def test_mmx_bytes_are_stored_under_a_mask(kernel: Board) -> None:
    kernel.poke(DATA + 0x400, 0x0706050403020100, 0x00FF000000800000)
    kernel.set(rbx=DATA + 0x400, rdi=DATA)
    # movq mm3, [rbx]; movq mm5, [rbx + 8]; maskmovq mm3, mm5
    assert kernel.run("0F6F1B0F6F6B080FF7DD") == Exit.EXIT_HLT
    assert kernel.p.read_phys(DATA, 8) == bytes((100, 0, 2, 0, 101, 0, 6, 0))


# --- gathers


def test_gather_of_words_by_words(kernel: Board) -> None:
    kernel.set(rbx=DATA + 40)
    kernel.set_vectors(
        ymm0=b"\xaa" * 32, ymm1=words(ON, 0, ON, OFF, ON, ON, 0, ON), ymm2=words(*range(-4, 4))
    )
    kernel.emulate("C4E275900493")  # vpgatherdd ymm0, [rbx + ymm2 * 4], ymm1
    old = 0xAAAAAAAA
    assert read_words(kernel.vector(0)) == [106, old, 108, old, 110, 111, old, 113]
    assert kernel.vector(1) == bytes(32)
    assert kernel.get("rip") == CODE + 6


def test_gather_of_words_by_quads_fills_half_a_register(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(
        ymm0=b"\xaa" * 32, ymm1=words(ON, ON, ON, ON, ON, ON), ymm2=quads(1, 2, 3, 4)
    )
    kernel.emulate("C4E275910493")  # vpgatherqd xmm0, [rbx + ymm2 * 4], xmm1
    assert read_words(kernel.vector(0)) == [101, 102, 103, 104, 0, 0, 0, 0]
    assert kernel.vector(1) == bytes(32)


def test_gather_of_two_words_by_quads(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(ymm0=b"\xaa" * 32, ymm1=words(ON, ON, ON, ON), ymm2=quads(1, 2, 3, 4))
    kernel.emulate("C4E271910493")  # vpgatherqd xmm0, [rbx + xmm2 * 4], xmm1
    assert read_words(kernel.vector(0)) == [101, 102, 0, 0, 0, 0, 0, 0]


def test_gather_of_quads_by_words(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(ymm1=quads(-1, -1, 0, -1), ymm2=words(0, 2, 4, 6, 99))
    kernel.emulate("C4E2F5900493")  # vpgatherdq ymm0, [rbx + xmm2 * 4], ymm1
    assert read_words(kernel.vector(0)) == [100, 101, 102, 103, 0, 0, 106, 107]


def test_gather_agrees_with_the_run_loop(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    kernel.set_vectors(ymm1=quads(-1, 0, -1, -1), ymm2=quads(8, 16, 1 << 20, 24))
    kernel.map(DATA + (1 << 20), DATA + 0x2000 | 7)
    kernel.poke(DATA + 0x2000, 0xDEADBEEF)
    assert kernel.run("C4E2F5930413") == Exit.EXIT_HLT  # vgatherqpd ymm0, [rbx + ymm2], ymm1
    assert kernel.vector(0)[16:24] == quads(0xDEADBEEF)


def test_a_gather_that_faults_has_done_the_lower_lanes(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    hole = (HOLE - DATA) // 4
    kernel.set_vectors(
        ymm0=words(*[7] * 8),
        ymm1=words(ON, 0, ON, ON, ON, 0, 0, ON),
        ymm2=words(1, 2, 3, hole, 4, 5, 6, 7),
    )
    kernel.emulate("C4E275900493")
    assert kernel.raised() == PAGE_FAULT
    assert kernel.get("cr2") == HOLE
    assert read_words(kernel.vector(0)) == [101, 7, 103, 7, 7, 7, 7, 7]
    assert read_words(kernel.vector(1)) == [0, 0, 0, ON, ON, 0, 0, ON]
    frame = kernel.get("rsp")
    assert kernel.peek(frame + 8) == CODE


def test_a_gather_goes_on_after_its_fault(kernel: Board) -> None:
    kernel.set(rbx=DATA)
    hole = (HOLE - DATA) // 4
    kernel.set_vectors(ymm1=words(ON, ON), ymm2=words(1, hole))
    kernel.emulate("C4E275900493")
    kernel.poke(DATA, 0)
    kernel.map(HOLE, DATA | 7)
    kernel.emulate("C4E275900493")
    assert read_words(kernel.vector(0)) == [101, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("code", ["C4E27D900493", "C4E275900483", "C4E26D900493"])
def test_registers_of_a_gather_must_differ(kernel: Board, code: str) -> None:
    kernel.set(rbx=DATA)
    kernel.emulate(code)
    assert kernel.raised() == UD


def test_a_gather_from_a_device(kernel: Board) -> None:
    kernel.device.set(0, words(1, 2, 3, 4))
    kernel.set(rbx=DEVICE)
    kernel.set_vectors(ymm1=words(ON, 0, ON), ymm2=words(3, 0, 1))
    assert kernel.run("C4E275900493") == Exit.EXIT_HLT
    assert kernel.device.reads == [(12, 4), (4, 4)]
    assert read_words(kernel.vector(0))[:3] == [4, 0, 2]


# --- XLAT


def test_xlat(kernel: Board) -> None:
    kernel.p.write_phys(DATA + 0x80, b"\x5c")
    kernel.set(rbx=DATA, rax=0x123480)
    kernel.emulate("D7")
    assert kernel.get("rax") == 0x12345C


def test_xlat_of_a_device(kernel: Board) -> None:
    kernel.device.set(3, b"\x77")
    kernel.set(rbx=DEVICE, rax=3)
    assert kernel.run("D7") == Exit.EXIT_HLT
    assert kernel.get("rax") == 0x77
