"""Sensitive operations of a kernel's entry and exit that do not leave translated code."""

import pytest

from ringlet.core.state import Exit
from ringlet.vcpu.system.cpuid import host_tsc
from tests.unit.vcpu.board import CODE, DATA, GP, GS_BASE, HLT, IF, Board

STI, CLI, RDTSC, SWAPGS, GS_LOAD = "FB", "FA", "0F31", "0F01F8", "65488B042500000000"
NOP = "90"
OTHER = DATA + 0x100


def operations(board: Board, code: str, at: int = CODE) -> int:
    """Run code to its HLT twice, and return the operations for which the second run left."""
    for _ in range(2):
        board.p.write_phys(at, bytes.fromhex(code) + HLT)
        board.set(rip=at, rflags=2)
        before = board.p.counters()["ops"]
        assert board.go() == Exit.EXIT_HLT
    return board.p.counters()["ops"] - before


@pytest.mark.parametrize(
    "code", [STI + NOP, CLI, RDTSC, SWAPGS * 2, STI + CLI + SWAPGS * 2 + RDTSC]
)
def test_they_do_not_leave(code: str) -> None:
    assert operations(Board(), code) == 1  # HLT


@pytest.mark.parametrize(
    ("before", "at", "leaves"),
    [(0, CODE + 0xFFE, 1), (0, CODE + 0xFFF, 2), (94, CODE, 1), (95, CODE, 2)],
)
def test_sti_leaves_where_no_instruction_of_its_fragment_follows(
    before: int, at: int, leaves: int
) -> None:
    assert operations(Board(), NOP * before + STI + NOP, at) == leaves


def test_sti_sets_if_and_keeps_rcx_and_the_flags() -> None:
    board = Board()
    board.set(rcx=0x1122334455667788)

    board.run("4831C0" + "F9" + STI + NOP)  # xor rax, rax; stc

    assert board.get("rcx") == 0x1122334455667788
    assert board.get("rflags") & (IF | 0x41) == IF | 0x41


def test_an_interrupt_that_waits_is_taken_behind_the_next_instruction() -> None:
    board = Board()
    board.run(STI + NOP * 8)
    board.p.set_interrupt(True)
    board.set(rflags=2, rcx=7)

    assert board.run(STI + NOP * 8) == Exit.EXIT_WINDOW
    assert (board.get("rip"), board.get("rcx")) == (CODE + 2, 7)


def test_swapgs_changes_what_gs_addresses() -> None:
    board = Board()
    board.set(kernel_gs_base=OTHER)
    board.poke(OTHER, 1)
    board.poke(GS_BASE, 2)

    board.run(GS_LOAD + "4889C3" + SWAPGS + GS_LOAD)  # mov rbx, rax

    assert (board.get("rbx"), board.get("rax")) == (2, 1)
    assert (board.get("gs_base"), board.get("kernel_gs_base")) == (OTHER, GS_BASE)


def test_swapgs_to_an_address_that_is_not_canonical_faults_at_the_access() -> None:
    board = Board()
    board.set(kernel_gs_base=1 << 62)

    board.run(SWAPGS + GS_LOAD)

    assert board.raised() == GP


@pytest.mark.parametrize("offset", [0, 1 << 40, -(1 << 33), 1 << 63])
def test_rdtsc_adds_the_guests_offset(offset: int) -> None:
    board = Board()
    board.set(tsc_offset=offset, rax=-1, rdx=-1)

    before = host_tsc()
    board.run(RDTSC)
    seen = (board.get("rdx") << 32 | board.get("rax")) - offset & (1 << 64) - 1

    assert before <= seen <= host_tsc()


@pytest.mark.parametrize("code", [SWAPGS, STI, CLI])
def test_they_fault_at_cpl_3(code: str) -> None:
    board = Board(3)

    board.run(code)

    assert board.raised() == GP
