"""Doorbells: writes that reach an eventfd and not the bus."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, DEVICE, DEVICE_PHYS, MIXED, PAGE_FAULT, Board

ROOM = 512
PORT = 0xC010
NOTIFY = DEVICE_PHYS + 0x40


@pytest.fixture
def board() -> Board:
    board = Board()
    board.p.attach_memory(board.device.read, board.device.write)
    board.set(rbx=DEVICE + 0x40, rdx=PORT, rax=5)
    return board


@pytest.fixture
def bell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def open_files() -> int:
    """Return how many descriptors are in use, without those of garbage."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def rung(fd: int) -> int:
    """Return how often the bell was rung since the last look."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def write_often(board: Board, code: str = "668903", times: int = 5) -> None:
    """Execute a store; the third and later ones are direct accesses."""
    for _ in range(times):
        board.set(rbx=DEVICE + 0x40)
        assert board.run(code) == Exit.EXIT_HLT


def test_every_write_rings(board: Board, bell: int) -> None:
    assert board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board)

    assert rung(bell) == board.p.counters()["doorbells"] == 5
    assert board.device.writes == []


@pytest.mark.parametrize("code", ["668903", "66C7030500", "66A34000004000000000"])
def test_value_is_compared(board: Board, bell: int, code: str) -> None:
    board.p.add_doorbell(NOTIFY, 2, 5, bell)
    write_often(board, code, 3)
    assert rung(bell) == 3
    board.set(rax=6)
    write_often(board, "668903", 3)

    assert rung(bell) == 0
    assert board.device.writes == [(0x40, 2, 6)] * 3


def test_size_and_address_are_compared(board: Board, bell: int) -> None:
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board, "8903", 3)
    write_often(board, "8803", 3)
    write_often(board, "66894302", 3)

    assert rung(bell) == 0
    written = [(offset, size) for offset, size, _ in board.device.writes]
    assert written == [(0x40, 4)] * 3 + [(0x40, 1)] * 3 + [(0x42, 2)] * 3


def test_reads_do_not_ring(board: Board, bell: int) -> None:
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board, "668B03", 4)

    assert rung(bell) == 0
    assert board.device.reads == [(0x40, 2)] * 4


def test_any_value_comes_before_one_value(board: Board, bell: int) -> None:
    other = os.eventfd(0, os.EFD_NONBLOCK)
    board.p.add_doorbell(NOTIFY, 2, 5, other)
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board, times=1)
    board.p.remove_doorbell(NOTIFY, 2, None)
    write_often(board, times=1)

    assert (rung(bell), rung(other)) == (1, 1)
    os.close(other)


def test_removed_bell_is_silent(board: Board, bell: int) -> None:
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    board.p.remove_doorbell(NOTIFY, 2, None)
    board.p.remove_doorbell(NOTIFY, 2, None)
    write_often(board)

    assert rung(bell) == 0
    assert len(board.device.writes) == 5


def test_bell_is_the_file_and_not_its_number(board: Board, bell: int) -> None:
    own = os.dup(bell)
    board.p.add_doorbell(NOTIFY, 2, None, own)
    os.close(own)
    write_often(board)

    assert rung(bell) == 5


def test_second_eventfd_replaces_the_first(board: Board, bell: int) -> None:
    other = os.eventfd(0, os.EFD_NONBLOCK)
    board.p.add_doorbell(NOTIFY, 2, None, other)
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board)

    assert (rung(bell), rung(other)) == (5, 0)
    os.close(other)


def test_full_counter_does_not_stop_the_guest(board: Board, bell: int) -> None:
    os.eventfd_write(bell, (1 << 64) - 2)
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    write_often(board)

    assert rung(bell) == (1 << 64) - 2


def test_descriptor_that_blocks_is_refused(board: Board) -> None:
    fd = os.eventfd(0)
    with pytest.raises(ValueError, match="does not block"):
        board.p.add_doorbell(NOTIFY, 2, None, fd)
    os.close(fd)
    with pytest.raises(ValueError, match="does not block"):
        board.p.add_doorbell(NOTIFY, 2, None, fd)
    write_often(board)

    assert len(board.device.writes) == 5


def test_no_room_is_said_and_made(board: Board, bell: int) -> None:
    made = [board.p.add_doorbell(NOTIFY, 2, value, bell) for value in range(ROOM + 2)]
    assert made == [True] * ROOM + [False] * 2
    assert board.p.add_doorbell(NOTIFY, 2, 7, bell)  # this one is there
    board.p.remove_doorbell(NOTIFY, 2, 7)
    assert board.p.add_doorbell(NOTIFY, 2, ROOM, bell)
    for value in (0, 7, ROOM, ROOM + 1):
        board.set(rax=value)
        write_often(board, times=1)

    assert rung(bell) == 2
    assert [w[2] for w in board.device.writes] == [7, ROOM + 1]


def test_bells_that_move_with_their_device(board: Board, bell: int) -> None:
    files = open_files()
    for base in range(0, 3000 << 12, 1 << 12):
        assert board.p.add_doorbell(base, 2, None, bell)
        assert board.p.add_doorbell(base, 2, 1, bell)
        board.p.remove_doorbell(base, 2, 1)
        board.p.remove_doorbell(base, 2, None)

    assert open_files() == files


def test_bells_end_with_the_processor(bell: int) -> None:
    files = open_files()
    board = Board()
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    board.p.add_port_doorbell(PORT, 2, None, bell)
    del board

    assert open_files() == files


def test_bell_does_not_open_a_way_around_the_page_tables(board: Board, bell: int) -> None:
    board.p.add_doorbell(NOTIFY, 2, None, bell)
    board.p.add_doorbell(DATA, 2, None, bell)
    write_often(board)
    assert rung(bell) == 5
    board.set(rbx=DATA)
    board.run("668903")  # RAM is RAM
    assert (rung(bell), board.peek(DATA)) == (0, 5)
    board.set(rbx=MIXED + 0xFFF)
    board.run("668903")  # the second byte belongs to the device
    board.poke(0x9000, 0)
    board.p.set("cr3", board.get("cr3"))
    board.set(rbx=DEVICE + 0x40)
    board.run("668903")

    assert board.raised() == PAGE_FAULT
    assert rung(bell) == 0


# --- ports


def test_port_bell(board: Board, bell: int) -> None:
    sent: list[tuple[int, int, int]] = []
    board.p.attach_ports(lambda _port, _size: 9, lambda *access: sent.append(access))
    assert board.p.add_port_doorbell(PORT, 2, None, bell)
    board.run("66EF 66EF EF EE 66ED".replace(" ", ""))

    assert rung(bell) == 2
    assert sent == [(PORT, 4, 5), (PORT, 1, 5)]
    assert board.get("rax") == 9


def test_port_bell_with_a_value(board: Board, bell: int) -> None:
    sent: list[tuple[int, int, int]] = []
    board.p.attach_ports(lambda _port, _size: 9, lambda *access: sent.append(access))
    board.p.add_port_doorbell(PORT, 2, 5, bell)
    board.p.add_doorbell(PORT, 2, 6, bell)  # memory, and no port
    board.run("66EF 66B80600 66EF".replace(" ", ""))

    assert rung(bell) == 1
    assert sent == [(PORT, 2, 6)]


def test_port_bell_of_outs(board: Board, bell: int) -> None:
    board.p.add_port_doorbell(PORT, 1, None, bell)
    board.set(rsi=DATA, rcx=3)
    assert board.run("F36E") == Exit.EXIT_HLT

    assert rung(bell) == 3
    assert (board.get("rsi"), board.get("rcx")) == (DATA + 3, 0)


def test_removed_port_bell(board: Board, bell: int) -> None:
    board.p.add_port_doorbell(PORT, 2, None, bell)
    board.p.remove_port_doorbell(PORT, 2, None)

    assert board.run("66EF") == Exit.EXIT_IO_OUT
    assert rung(bell) == 0


def test_step_trap_follows_the_bell(board: Board, bell: int) -> None:
    board.p.add_port_doorbell(PORT, 2, None, bell)
    board.set(rflags=0x102)
    board.run("66EF90")

    assert rung(bell) == 1
    assert board.peek(board.get("rsp")) == CODE + 2
