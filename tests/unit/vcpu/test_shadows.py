"""How long STI, MOV SS and an NMI handler hold back waiting events (SDM 3A 6.7.1, 6.8.3)."""

import struct

import pytest

from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, DATA, DB, HANDLERS, HLT, IDT, IF, STACK, TF, Board

NMI = 2
MOV_SS = "8ED0"  # mov ss, eax
LSS = "0FB23F"  # lss edi, [rdi]
KERNEL_SS, USER_SS = 0x10, 0x1B
STI_SHADOW, MOV_SS_SHADOW = 1, 2


def handled(board: Board) -> tuple[int, int]:
    """Return the vector in whose handler the processor has halted, and RIP in its frame."""
    rip = struct.unpack("<Q", board.p.read_linear(board.get("rsp"), 8))[0]
    return (board.get("rip") - HANDLERS) // 16, rip - CODE


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("speculate", [False, True])
def test_every_second_of_a_row_of_mov_ss_is_stepped(cpl: int, speculate: bool) -> None:
    board = Board(cpl, speculate=speculate)
    board.set(rax=USER_SS if cpl else KERNEL_SS, rflags=2 | TF)

    board.run(MOV_SS * 8)

    assert handled(board) == (DB, 4)


@pytest.mark.parametrize(
    ("behind", "rip"),
    [
        ("F1", 3),  # INT1: one #DB for both
        ("CC", HANDLERS + 3 * 16 - CODE),  # INT3: at the first instruction of its handler
        ("90", 3),
    ],
)
def test_where_the_trap_of_a_watched_mov_ss_arrives(behind: str, rip: int) -> None:
    board = Board()
    board.p.write_linear(DATA, struct.pack("<H", KERNEL_SS))
    board.set(rax=DATA, dr0=DATA, dr7=0x70403)  # 2 bytes, read or written

    board.run("8E10" + behind)  # mov ss, [rax]

    assert handled(board) == (DB, rip)
    assert board.get("dr6") & 0xF == 1


@pytest.mark.parametrize("cpl", [0, 3])
def test_an_nmi_waits_for_one_mov_ss_of_a_row(cpl: int) -> None:
    board = Board(cpl)
    board.set(rax=USER_SS if cpl else KERNEL_SS, nmi_pending=1, inhibit=MOV_SS_SHADOW)

    board.run(MOV_SS * 64)

    assert handled(board) == (NMI, 2)


@pytest.mark.parametrize(
    ("row", "at"),
    [
        (MOV_SS * 64, 5),  # in STI's shadow; the first of the row opens one of its own
        ("90" * 64, 2),
        ("FB" * 64, 2),  # the second finds IF set
    ],
)
def test_an_interrupt_waits_for_the_second_mov_ss_behind_sti(row: str, at: int) -> None:
    board = Board()
    board.p.set_interrupt(True)
    board.set(rax=KERNEL_SS)

    assert board.run("FB" + row) == Exit.EXIT_WINDOW
    assert board.get("rip") == CODE + at


def test_sti_behind_mov_ss_holds_back_as_ever() -> None:
    board = Board()
    board.p.set_interrupt(True)
    board.set(rax=KERNEL_SS)

    assert board.run(MOV_SS + "FB 90 90") == Exit.EXIT_WINDOW
    assert board.get("rip") == CODE + 4


def test_lss_opens_no_shadow() -> None:
    board = Board()
    board.p.write_phys(DATA, struct.pack("<IH", 0, KERNEL_SS))
    board.set(rdi=DATA, rflags=2 | TF)

    board.run(LSS + "90")

    assert handled(board) == (DB, 3)


def test_a_breakpoint_is_hit_at_the_third_mov_ss_of_a_row() -> None:
    board = Board()
    board.set(rax=KERNEL_SS, dr0=CODE + 4, dr7=0x402)

    board.run(MOV_SS * 8)

    assert handled(board) == (DB, 4)


@pytest.mark.parametrize("shadow", [STI_SHADOW, MOV_SS_SHADOW])
def test_an_nmi_is_taken_right_behind_a_shadow(shadow: int) -> None:
    board = Board()
    board.run("90" * 8)  # translated by now
    board.enter(0)
    board.set(nmi_pending=1, inhibit=shadow)

    board.run("90" * 8)

    assert handled(board) == (NMI, 1)


@pytest.mark.parametrize("cpl", [0, 3])
def test_an_nmi_that_waits_for_iret_is_taken_where_it_returns_to(cpl: int) -> None:
    board = Board()
    target = DATA
    board.p.write_phys(target, bytes.fromhex("FFC3") * 8 + bytes.fromhex("CD20"))  # inc ebx; int
    handler = DATA + 0x800
    board.p.write_phys(handler, HLT)
    gate = handler & 0xFFFF | 8 << 16 | 0xEE << 40 | handler >> 16 << 48
    board.poke(IDT + 16 * 0x20, gate)
    board.p.set_table("idtr", IDT, 0x20F)
    code, data = (0x23, USER_SS) if cpl else (8, KERNEL_SS)

    for waits in (0, 0, 0, 1):
        board.enter(0)
        board.set(rsp=STACK - 40, rbx=0, nmi_pending=waits, nmi_blocked=1)
        # After the first jump, indirect jumps reach the target through the table.
        board.poke(STACK - 40, target, code, 2, STACK, data)
        board.run("48CF")

    assert handled(board) == (NMI, target - CODE)
    assert board.get("rbx") == 0


def test_the_step_trap_of_iret_is_not_lost_to_an_nmi() -> None:
    board = Board()
    board.set(rsp=STACK - 40, nmi_pending=1, nmi_blocked=1)
    board.poke(STACK - 40, CODE + 2, 8, 2 | TF, STACK, KERNEL_SS)

    board.run("48CF" + "90" * 4)

    assert handled(board) == (NMI, 2)


def test_an_interrupt_of_the_controller_lets_an_nmi_pass() -> None:
    board = Board()
    board.p.set_interrupt(True)
    board.set(rflags=2 | IF)
    before = board.p.interruptible()
    board.set(nmi_pending=1)

    assert (before, board.p.interruptible()) == (True, False)
