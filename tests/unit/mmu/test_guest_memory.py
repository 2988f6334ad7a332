"""Guest memory as devices' threads see it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ringlet.vcpu.processor import Processor
from tests.unit.vcpu.board import CODE, DATA, RAM, Board

PAGE = 4096


def ram_files() -> set[int]:
    """Return the inodes of the guest RAM that this process holds."""
    return {file.st_ino for file in _ram_stats()}


def blocks(inode: int) -> int:
    """Return how many bytes of the host guest RAM takes."""
    return next(512 * file.st_blocks for file in _ram_stats() if file.st_ino == inode)


def _ram_stats() -> list[os.stat_result]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            if "ringlet-ram" in str(link.readlink()):
                found.append(link.stat())
        except FileNotFoundError:
            continue  # that of the directory itself
    assert all(stat.S_ISREG(file.st_mode) for file in found)
    return found


def test_view_is_the_memory_itself() -> None:
    processor = Processor(1 << 20)
    memory = processor.guest_memory()
    memory.view(0x1000, 4)[:] = b"abcd"
    assert processor.read_phys(0x1000, 4) == b"abcd"
    processor.write_phys(0x1000, b"efgh")
    assert memory.read(0x1000, 4) == b"efgh"


def test_view_keeps_the_memory_alive() -> None:
    view = Processor(1 << 20).guest_memory().view(0, 16)
    view[:4] = b"1234"
    assert bytes(view[:4]) == b"1234"


@pytest.mark.parametrize(
    ("address", "size"), [(RAM, 1), (RAM - 1, 2), (1 << 32, 1), (0, RAM + 1), (1 << 63, 1)]
)
def test_what_is_not_ram_has_no_view(address: int, size: int) -> None:
    memory = Board().p.guest_memory()
    with pytest.raises(ValueError, match="no RAM at guest physical"):
        memory.view(address, size)
    assert not memory.has_code(address, size)


def test_code_is_seen_by_pages() -> None:
    board = Board()
    memory = board.p.guest_memory()
    assert not memory.has_code(CODE, 1)
    board.run(bytes.fromhex("b801000000"))
    assert memory.has_code(CODE, 1)
    assert memory.has_code(CODE + PAGE - 1, 1)
    assert memory.has_code(0, RAM)
    assert not memory.has_code(CODE + PAGE, PAGE)
    assert not memory.has_code(CODE - 1, 1)
    assert memory.has_code(CODE - 1, 2)
    assert not memory.has_code(CODE, 0)


# --- discard


def test_discarded_pages_take_no_memory_and_are_zero() -> None:
    before = ram_files()
    processor = Processor(8 << 20)
    (inode,) = ram_files() - before
    memory = processor.guest_memory()
    memory.view(0, 8 << 20)[:] = b"\x11" * (8 << 20)
    full = blocks(inode)
    memory.discard(1 << 20, 4 << 20)

    assert blocks(inode) == full - (4 << 20)
    assert memory.read((1 << 20) - 1, 2) == b"\x11\0"
    assert memory.read((5 << 20) - 1, 2) == b"\0\x11"
    assert memory.read(1 << 20, 4 << 20) == bytes(4 << 20)
    memory.view(2 << 20, 1)[:] = b"x"
    assert processor.read_phys(2 << 20, 1) == b"x"


def test_guest_sees_zeros_in_its_windows() -> None:
    """mov eax, [DATA]: the page is in the window before it is discarded."""
    board = Board()
    load = b"\x8b\x04\x25" + DATA.to_bytes(4, "little")
    board.poke(DATA, 0x1234_5678)
    board.run(load)
    assert board.get("rax") == 0x1234_5678
    board.p.guest_memory().discard(DATA, PAGE)
    board.run(load)
    assert board.get("rax") == 0


def test_code_that_is_discarded_is_dropped_by_the_caller() -> None:
    board = Board()
    memory = board.p.guest_memory()
    board.run(bytes.fromhex("b801000000"))
    board.p.drop_code(CODE, PAGE)
    memory.discard(CODE, PAGE)
    assert not memory.has_code(CODE, PAGE)
    board.run(bytes.fromhex("b802000000"))
    assert board.get("rax") == 2


def test_memory_above_4_gib_is_in_the_same_file() -> None:
    before = ram_files()
    memory = Processor((3 << 30) + (4 << 20)).guest_memory()
    (inode,) = ram_files() - before
    high = 1 << 32
    memory.view(high, 2 << 20)[:] = b"\x11" * (2 << 20)
    memory.view(0, PAGE)[:] = b"\x22" * PAGE
    full = blocks(inode)
    memory.discard(high + PAGE, 1 << 20)
    assert blocks(inode) == full - (1 << 20)
    assert memory.read(high, PAGE) == b"\x11" * PAGE
    assert memory.read(high + PAGE, 1) == b"\0"
    assert memory.read(0, 1) == b"\x22"


@pytest.mark.parametrize(
    ("address", "size", "why"),
    [
        (1, PAGE, "no whole pages"), (0, PAGE - 1, "no whole pages"), (0, 0, "no whole pages"),
        (RAM, PAGE, "no RAM"), (RAM - PAGE, 2 * PAGE, "no RAM"), (1 << 63, PAGE, "no RAM"),
        (0, 1 << 63, "no RAM"), (3 << 30, PAGE, "no RAM"),
    ],
)  # fmt: skip
def test_what_cannot_be_discarded(address: int, size: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Board().p.guest_memory().discard(address, size)
