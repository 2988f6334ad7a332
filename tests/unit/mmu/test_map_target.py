"""Guest frames are mapped by number, in any address space and from any file."""

from __future__ import annotations

import os

import pytest

from ringlet_probes.mmu import Frames
from tests.unit.mmu.guest import AT, DATA, GIB, KERNEL, MIB, OTHER, PAGE, Guest, P, U, W, peek, poke

NONE, READ, WRITE = 0, 1, 3
HOLE = 3 * GIB // PAGE  # the first frame without RAM
ABOVE = 4 * GIB // PAGE  # the first frame with RAM again


def mark(frames: Frames, frame: int) -> bytes:
    """Write known contents to a frame, in its file."""
    where = frames.resolve(frame)
    assert where is not None
    contents = f"frame {frame:#x} ".encode()
    os.pwrite(frames.file(frame), contents, where[0])
    return contents


def seen(frames: Frames, page: int, size: int) -> bytes | None:
    """Return the contents of a page of the area at its address in the target."""
    return peek(frames.area + frames.shift + page * PAGE, size)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (0, (0, HOLE)),
        (5, (5 * PAGE, HOLE - 5)),
        (HOLE - 1, (3 * GIB - PAGE, 1)),
        (HOLE, None),
        (ABOVE - 1, None),
        (ABOVE, (3 * GIB, 16)),
        (ABOVE + 15, (3 * GIB + 15 * PAGE, 1)),
        (ABOVE + 16, None),
        (1 << 40, None),
        ((1 << 52) - 1, None),
    ],
)
def test_frame_is_resolved_on_either_side_of_the_hole(
    frame: int, expected: tuple[int, int] | None
) -> None:
    assert Frames(3 * GIB + 16 * PAGE).resolve(frame) == expected


@pytest.mark.parametrize("frame", [16, 17, HOLE, ABOVE])
def test_no_frame_is_resolved_behind_a_small_ram(frame: int) -> None:
    frames = Frames(16 * PAGE)

    assert frames.resolve(15) == (15 * PAGE, 1)
    assert frames.resolve(frame) is None


def test_frames_of_both_sides_show_their_contents() -> None:
    frames = Frames(3 * GIB + 16 * PAGE)
    below, above = mark(frames, HOLE - 1), mark(frames, ABOVE)

    assert frames.map(0, HOLE - 1, 1, READ) == 1
    assert frames.map(1, ABOVE, 1, READ) == 1

    assert seen(frames, 0, len(below)) == below
    assert seen(frames, 1, len(above)) == above


@pytest.mark.parametrize(("frame", "pages"), [(HOLE - 1, 2), (HOLE, 1), (ABOVE + 15, 2)])
def test_range_that_leaves_ram_is_not_mapped(frame: int, pages: int) -> None:
    frames = Frames(3 * GIB + 16 * PAGE)

    assert frames.map(0, frame, pages, READ) == 0

    assert seen(frames, 0, 1) is None
    assert seen(frames, 1, 1) is None


def test_mapping_is_where_the_target_puts_it() -> None:
    frames = Frames(MIB)
    contents = mark(frames, 3)

    frames.map(7, 3, 1, READ)

    assert frames.shift != 0
    assert seen(frames, 7, len(contents)) == contents
    assert peek(frames.area + 7 * PAGE, 1) is None


def test_rights_are_what_was_asked() -> None:
    frames = Frames(MIB)
    at = frames.area + frames.shift

    frames.map(0, 0, 4, WRITE)
    assert poke(at, b"x")
    assert frames.protect(0, 1, READ)
    assert not poke(at, b"y")
    assert seen(frames, 0, 1) == b"x"
    assert frames.protect(1, 1, NONE)
    assert seen(frames, 1, 1) is None
    frames.unmap(2, 1)

    assert [seen(frames, page, 1) for page in range(4)] == [b"x", None, None, b"\0"]


def test_frames_of_two_files_are_one_range() -> None:
    parent, child = Frames(MIB), Frames(MIB)
    child.borrow(parent, 10)
    contents = [mark(child, frame) for frame in (9, 10)]

    assert child.file(9) != child.file(10)
    assert child.map(0, 8, 5, READ) == 2

    assert seen(child, 1, len(contents[0])) == contents[0]
    assert seen(child, 2, len(contents[1])) == contents[1]
    assert parent.map(0, 10, 1, READ) == 1
    assert seen(parent, 0, len(contents[1])) == contents[1]


def test_nothing_new_is_shown_if_the_host_refuses_halfway() -> None:
    parent, child = Frames(MIB), Frames(MIB)
    child.borrow(parent, 10)
    child.refuse_map_after(1)

    assert child.map(0, 8, 5, READ) == 0

    assert [seen(child, page, 1) for page in range(5)] == [None] * 5


# --- a whole virtual MMU


def away(guest: Guest, linear: int, size: int) -> bytes | None:
    """Return the contents of a window at its address in the target."""
    return peek(guest.probe.host(linear) + guest.probe.shift, size)


def touch(guest: Guest, linear: int, *, write: bool = False) -> None:
    probe = guest.probe
    probe.slot_fault(linear)
    result, at = probe.shadow_fault(probe.host(linear), 2 if write else 0)
    assert (result, at) == (0, linear)


def test_windows_are_where_their_target_is() -> None:
    guest = Guest(away=True)
    contents = guest.fill(DATA, b"shown elsewhere ")
    guest.tables.map(AT, DATA)

    touch(guest, AT)

    assert away(guest, AT, PAGE) == contents
    assert peek(guest.probe.host(AT), 1) is None


def test_changes_of_windows_reach_their_target() -> None:
    guest = Guest(away=True)
    contents = guest.fill(OTHER, b"another page ")
    entry = guest.tables.map(AT, DATA)
    guest.tables.map(KERNEL, DATA)
    touch(guest, AT, write=True)
    touch(guest, KERNEL, write=True)
    at = guest.probe.host(AT) + guest.probe.shift
    assert poke(at, b"plain")

    guest.probe.protect_code(DATA)
    assert not poke(at, b"code")
    guest.probe.set_entry(entry, OTHER | P | W | U)
    guest.probe.invlpg(AT)
    touch(guest, AT)
    assert away(guest, AT, PAGE) == contents
    guest.probe.set_entry(entry, 0)
    guest.probe.load_cr3(guest.tables.root)

    assert away(guest, AT, 1) is None
    assert away(guest, KERNEL, 5) == b"plain"
