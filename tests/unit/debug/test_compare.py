"""Blocks compared with another processor: right results pass, and wrong ones are named."""

import pytest

from ringlet.core.state import Exit
from ringlet.debug.compare import Comparer
from ringlet.vcpu.debug.blocks import Event
from tests.unit.vcpu.board import CODE, DATA, HOLE, Board

# mov rbx, 5; add rax, rbx; mov [rdi], rax; mov rcx, [rdi]; hlt
SUM = "48c7c305000000 4801d8 488907 488b0f f4"
ADD, SUB = bytes.fromhex("4801d8"), bytes.fromhex("4829d8")


class Watched:
    """A board whose blocks are compared."""

    def __init__(self) -> None:
        self.board = Board()
        self.said: list[str] = []
        self.comparer = Comparer(self.board.p, 3, self.said.append)
        self.board.p.watch_blocks(64, self.comparer.begins)
        self.board.set(rdi=DATA, rax=7)

    def run(self, code: str) -> None:
        assert self.board.run(code) == Exit.EXIT_HLT


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize(
    "code",
    [
        SUM,
        "31c0 31db b964000000 01cb ffc9 75fa f4",  # a loop to its own block
        "31db b903000000 ffc3 0f77 ffc9 75f8 f4",  # EMMS is not compared, and a loop is around it
        "e801000000 f4 488b0424 c3",  # call and return
        "9c 58 fa 0f31 f4",  # what is sensitive
        "0f28c1 0f58c8 660fefc0 f4",  # vectors
        "b105 48d3e0 0f94c0 f4",  # flags that are undefined
        "f3aa f4",  # repeated
        "0fb600 480fafc0 480fbdc8 f4",
    ],
)
def test_right_results_pass(watched: Watched, code: str) -> None:
    watched.board.set(rax=DATA, rcx=3)
    watched.run(code)
    assert watched.said == []


def test_blocks_are_compared(watched: Watched) -> None:
    watched.run(SUM)
    assert watched.comparer.compared == 1


def test_a_block_that_faults_is_passed_over(watched: Watched) -> None:
    watched.board.set(rdi=HOLE)
    watched.run(SUM)

    assert watched.said == []
    assert watched.comparer.compared == 0


def test_the_first_wrong_instruction_is_named() -> None:
    """The test replaces the translation by one that subtracts where the guest adds."""
    first = Board(keep=True)
    first.set(rdi=DATA, rax=7)
    first.run(SUM)
    kept = first.p.kept.dump()
    at = kept.rindex(ADD)
    assert kept.count(ADD) == 2, "the guest's bytes, and the code"
    board = Board(keep=True)
    board.p.kept.load(kept[:at] + SUB + kept[at + 3 :])
    said: list[str] = []
    board.p.watch_blocks(0, Comparer(board.p, 1, said.append).begins)
    board.set(rdi=DATA, rax=7)
    board.run(SUM)

    assert len(said) == 1
    assert f"at {CODE + 7:#x}, add rax,rbx: rax is 0x2, not 0xc" in said[0]


def test_a_block_that_was_compared_often_enough_is_not_reported() -> None:
    board, said, calls = Board(), list[str](), list[int]()
    comparer = Comparer(board.p, 3, said.append)

    def begins() -> bool:
        calls.append(board.p.get("rip"))
        return comparer.begins()

    board.p.watch_blocks(0, begins, 3)
    # mov ecx, 1000; 1: dec ecx; jmp 2f; 2: jnz 1b; hlt
    board.run("b9e8030000 ffc9 eb00 75fa f4")

    assert board.p.get("rcx") == 0
    assert said == []
    assert comparer.compared > 6
    assert len(calls) < 20


def test_events_are_kept(watched: Watched) -> None:
    watched.run("0f0b")  # ud2, whose handler halts
    kinds = [(event.kind, event.rip, event.first) for event in watched.board.p.events()]

    assert (Event.BLOCK, CODE) in [(kind, rip) for kind, rip, _ in kinds]
    assert (Event.EXCEPTION, CODE, 6) in kinds


def test_the_last_events_are_kept() -> None:
    board = Board()
    board.p.watch_blocks(16)
    board.run("b9e8030000 ffc9 eb00 75fa f4")
    events = board.p.events()

    assert len(events) == 16
    assert {event.kind for event in events} == {Event.BLOCK}
