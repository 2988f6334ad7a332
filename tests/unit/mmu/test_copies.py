"""Copies of pages that direct processes execute in place of the guest's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringlet.direct.zygote import Zygote
from tests.unit.direct.guest import SIGSEGV
from tests.unit.mmu.direct_guest import (
    CALLED,
    CODE,
    CODE_PHYS,
    DATA,
    OTHER_PHYS,
    REFUSED,
    DirectGuest,
    Stop,
    give,
    load,
    store,
)
from tests.unit.mmu.guest import PAGE, P, U

WANTED_OFTEN = 8
"""Times that a page is refused before it gets a copy (mmu/copies.pyx)."""


@pytest.fixture
def guest(zygote: Zygote) -> DirectGuest:
    return DirectGuest(zygote)


@pytest.fixture
def copied(guest: DirectGuest) -> DirectGuest:
    """A page like Linux's vDSO, with RDTSCP at 200 and code that gives 1 at 300; and its copy.

    The next page has code that loads the RDTSCP.
    """
    head = b"\x7fELF".ljust(64, b"\x90") + b"linux-vdso.so.1\0"
    page = head.ljust(200, b"\x90") + b"\x0f\x01\xf9".ljust(100, b"\x90") + give(1)
    guest.place(CODE, CODE_PHYS, page, P | U)
    guest.place(CODE + PAGE, CODE_PHYS + PAGE, load(CODE + 200))
    for _ in range(WANTED_OFTEN - 1):
        assert guest.run(CODE + 300) == Stop(answer=REFUSED, linear=CODE + 300)
    assert guest.value(CODE + 300) == 1
    return guest


def test_copy_traps_where_the_page_is_sensitive(copied: DirectGuest) -> None:
    assert copied.rights(CODE) == "r-xs"
    assert copied.value(CODE + PAGE) & 0xFFFFFF == 0xF4F4F4
    assert copied.probe.read_phys(CODE_PHYS + 200, 3) == b"\x0f\x01\xf9"
    assert copied.run(CODE + 200) == Stop(signal=SIGSEGV)


def write_as_a_device(guest: DirectGuest) -> None:
    guest.probe.write_phys(CODE_PHYS + 302, b"\2")


def write_through_an_alias(guest: DirectGuest) -> None:
    guest.tables.map(DATA, CODE_PHYS)
    guest.place(CODE + 2 * PAGE, CODE_PHYS + 2 * PAGE, store(DATA + 302, 2))
    assert guest.run(CODE + 2 * PAGE) == CALLED


@pytest.mark.parametrize("write", [write_as_a_device, write_through_an_alias])
def test_copy_is_dropped_by_a_write(
    copied: DirectGuest, write: Callable[[DirectGuest], None]
) -> None:
    write(copied)

    assert copied.value(CODE + PAGE) & 0xFFFFFF == 0xF9010F
    assert copied.rights(CODE) == "r--s"
    for _ in range(WANTED_OFTEN - 1):
        assert copied.run(CODE + 300) == Stop(answer=REFUSED, linear=CODE + 300)
    assert copied.value(CODE + 300) == 2


# --- a copy that was made by the page before

FUNCTION = 300
SHARED = bytes.fromhex("04" * 40 + "6990" + "31c90f01d0909090")
"""IMUL EDX, [RAX + disp32], imm32 behind ADD AL, 4.  Decoding from the second byte on comes to XOR
ECX, ECX; XGETBV."""


def behind(guest: DirectGuest, linear: int, phys: int, last: bytes) -> int:
    """Map the shared page behind one of a program's own; return where its function is."""
    guest.place(linear, phys, b"\x90" * (PAGE - 1) + last)
    guest.tables.map(linear + PAGE, CODE_PHYS, P | U)
    return linear + PAGE + FUNCTION


def test_copy_is_shown_only_where_the_page_before_gives_the_same(guest: DirectGuest) -> None:
    guest.probe.write_phys(CODE_PHYS, SHARED.ljust(FUNCTION, b"\x90") + give(1))
    odd = behind(guest, CODE, OTHER_PHYS, b"\x04")
    plain = behind(guest, CODE + 16 * PAGE, OTHER_PHYS + PAGE, b"\x90")
    alike = behind(guest, CODE + 32 * PAGE, OTHER_PHYS + 2 * PAGE, b"\x04")
    for _ in range(WANTED_OFTEN - 1):
        assert guest.run(odd) == Stop(answer=REFUSED, linear=odd)

    assert guest.value(odd) == guest.value(alike) == 1
    assert guest.run(plain) == Stop(answer=REFUSED, linear=plain)


def test_no_other_page_runs_before_a_copy_that_depends_on_it(guest: DirectGuest) -> None:
    guest.probe.write_phys(CODE_PHYS, SHARED.ljust(FUNCTION, b"\x90") + give(1))
    function = behind(guest, CODE, OTHER_PHYS, b"\x04")
    for _ in range(WANTED_OFTEN - 1):
        assert guest.run(function) == Stop(answer=REFUSED, linear=function)
    assert guest.value(function) == 1

    guest.place(CODE, OTHER_PHYS + PAGE, give(2).ljust(PAGE, b"\x90"))
    guest.probe.invlpg(CODE)

    assert guest.run(CODE) == Stop(answer=REFUSED, linear=CODE)
