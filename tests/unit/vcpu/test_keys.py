"""Code that ran under one key behaves as another key requires when entered under that key.

The key is all of the processor's state that a translation depends on.  Whatever leads to code that
was translated before, from the run loop's lookup to a jump in translated code, leads to a
translation for the key of that moment.
"""

from dataclasses import replace
from functools import reduce
from operator import or_

import pytest

from ringlet.core.control_bits import Cr0, Cr4
from ringlet.core.state import KEYS_BELOW, Exit, Key
from tests.unit.vcpu.board import CODE, DB, HANDLERS, PML4, TF, UD, Board
from tests.unit.vcpu.keys import (
    AVX,
    CELL,
    CHANGES,
    CR0,
    CR4,
    NOP,
    PLAIN,
    SSE,
    TABLE,
    TARGET,
    WAYS,
    Change,
    Setting,
    Way,
    branch,
    go,
    jump,
    keyed_board,
    outcome,
)

NM = 7
ROOT = 0x18000
"""Where another PML4 is."""
IOPL = 3 << 12
ROUNDS = 6
"""Number of entries under the first key, enough to make links and to make written pages hot."""

CASES = [
    pytest.param(CHANGES[change], WAYS[way], id=f"{change}-{way}")
    for change in CHANGES
    for way in WAYS
    if WAYS[way].before(CHANGES[change].first) and WAYS[way].before(CHANGES[change].then)
]


@pytest.mark.parametrize(("change", "way"), CASES)
def test_code_is_entered_under_the_key_of_now(change: Change, way: Way) -> None:
    board = keyed_board(way, change.probe)
    first = go(keyed_board(way, change.probe), way, change.first)
    then = go(keyed_board(way, change.probe), way, change.then)

    assert first != then
    assert [go(board, way, change.first) for _ in range(ROUNDS)] == [first] * ROUNDS
    assert [go(board, way, change.then) for _ in range(2)] == [then] * 2
    assert go(board, way, change.first) == first


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_kept_translation_is_found_under_its_own_key(change: Change) -> None:
    """The code at `TARGET` is copied, so that a kept translation could be used for the copy."""
    board = keyed_board(WAYS["direct_call"], change.probe, keep=True)
    cold = keyed_board(WAYS["direct_call"], change.probe)
    change.first.apply(board, TARGET)
    board.p.run()
    for b in (board, cold):
        b.p.write_phys(TARGET + 0x1000, b.p.read_phys(TARGET, 16))
        replace(change.then, dr7=PLAIN.dr7).apply(b, TARGET + 0x1000)

    assert outcome(board, int(board.p.run())) == outcome(cold, int(cold.p.run()))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_code_that_runs_on_after_an_exit_does_so_under_the_key_of_now(change: Change) -> None:
    first = replace(change.first, flags=change.first.flags | IOPL)
    board = keyed_board(WAYS["direct_call"], "E610" + change.probe)  # out 10h, al
    cold = keyed_board(WAYS["direct_call"], "E610" + change.probe)
    first.apply(board, TARGET)
    board.p.run()
    for b in (board, cold):
        change.then.apply(b, TARGET + 2)

    assert outcome(board, int(board.p.run())) == outcome(cold, int(cold.p.run()))


# --- changed by the guest itself, just before

CLEAR_EDX_ECX = "31D2 31C9"
INSTRUCTIONS = {
    "ts": ("0F22C0", CR0, CR0 | Cr0.CR0_TS, SSE, NM),  # mov cr0, rax
    "ts_by_lmsw": ("0F01F0", CR0, CR0 | Cr0.CR0_TS, SSE, NM),
    "em": ("0F22C0", CR0, CR0 & ~Cr0.CR0_MP | Cr0.CR0_EM, SSE, UD),
    "osfxsr": ("0F22E0", CR4, CR4 & ~Cr4.CR4_OSFXSR, SSE, UD),  # mov cr4, rax
    "osxsave": ("0F22E0", CR4, CR4 & ~Cr4.CR4_OSXSAVE, AVX, UD),
    "xcr0": (CLEAR_EDX_ECX + "0F01D1", 7, 3, AVX, UD),  # xsetbv
    "tf": ("50 9D", 2, 2 | TF, NOP, DB),  # push rax; popfq
    "dr7": ("0F23F8", 0x400, 0x401, NOP, DB),
}
"""Code that changes the key, its operand before and after, a probe, and the probe's exception."""

ENTRIES = {
    "direct_jump": ("E9", False),
    "direct_call": ("E8", False),
    "indirect_jump": ("FFE3", True),  # jmp rbx
    "indirect_call": ("FFD3", True),
    "jump_by_memory": ("FF27", True),
    "call_by_memory": ("FF17", True),
    "near_return": ("53 C3", True),
}


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("at", [CODE, TARGET + 0x100], ids=["other_page", "same_page"])
def test_an_instruction_changes_the_key_of_what_it_leads_to(
    instruction: str, entry: str, at: int
) -> None:
    """A loop that loads the register in each pass; only the last value differs."""
    change, before, after, probe, vector = INSTRUCTIONS[instruction]
    opcode, whole = ENTRIES[entry]
    board = keyed_board(WAYS["direct_call"], probe + jump(TARGET + len(probe) // 2, at))
    code = "48AD" + change  # lodsq
    code += opcode if whole else branch(opcode, at + len(bytes.fromhex(code)), TARGET)
    board.p.write_phys(at, bytes.fromhex(code))
    board.poke(CELL, TARGET)
    board.poke(TABLE, *[before] * ROUNDS, after)
    PLAIN.apply(board, at)
    board.set(rsi=TABLE, rbx=TARGET, rdi=CELL)

    kind, raised, back = outcome(board, int(board.p.run()))

    assert (kind, raised) == (Exit.EXIT_HLT, vector)
    assert board.get("rsi") == TABLE + 8 * (ROUNDS + 1)
    assert back == TARGET or instruction == "tf"


@pytest.mark.parametrize("call", ["FFD2", "E8"], ids=["indirect", "direct"])
def test_a_handler_that_clears_ts_is_asked_each_time_it_was_set(call: str) -> None:
    board = keyed_board(WAYS["direct_call"], SSE + "C3")
    board.p.write_phys(HANDLERS + 16 * NM, bytes.fromhex("FFC3 0F06 48CF"))  # inc ebx; clts; iretq
    code = b""
    for sets_ts in (False, False, True, True, True, False):
        if sets_ts:
            code += bytes.fromhex("0F20C0 83C808 0F22C0")  # mov rax, cr0; or eax, 8; mov cr0, rax
        code += bytes.fromhex(branch(call, CODE + len(code), TARGET) if call == "E8" else call)
    board.set(rdx=TARGET, rbx=0)

    board.run(code)

    assert board.get("rip") == CODE + len(code) + 1
    assert board.get("rbx") == 3


# --- the whole


def test_more_keys_than_jump_tables() -> None:
    units = [
        Setting(cr0=cr0, cr4=cr4)
        for cr0 in (CR0, CR0 | Cr0.CR0_TS, CR0 | Cr0.CR0_EM)
        for cr4 in (CR4, CR4 & ~Cr4.CR4_OSFXSR, CR4 & ~Cr4.CR4_OSXSAVE)
    ]
    settings = [replace(unit, cpl=cpl) for cpl in range(4) for unit in units]
    way = WAYS["indirect_call"]
    expected = [go(keyed_board(way, SSE), way, setting) for setting in settings]
    board = keyed_board(way, SSE)
    board.p.write_phys(ROOT, board.p.read_phys(PML4, 4096))

    for root in (PML4, ROOT) * 3:  # two address spaces
        board.p.set("cr3", root)
        assert [go(board, way, setting) for setting in settings] == expected
    assert len(set(expected)) > 2
    assert board.p.counters()["jump_tables"] > len(settings)


def test_every_bit_of_the_key_is_changed_here() -> None:
    """Each bit of the key needs a change in `CHANGES`, or one of segments below."""
    board = keyed_board(WAYS["direct_call"], NOP)
    changed = 0
    for change in CHANGES.values():
        keys = []
        for setting in (change.first, change.then):
            setting.apply(board, TARGET)
            keys.append(board.get("key"))
        changed |= keys[0] ^ keys[1]

    for pair in SEGMENTS.values():
        keys = []
        for segments in pair:
            enter_32(board, *segments)
            keys.append(board.get("key"))
        changed |= keys[0] ^ keys[1]

    assert changed == reduce(or_, (key.value for key in Key.__members__.values()))
    assert changed < KEYS_BELOW


FLAT = (0xFFFFFFFF, 0, 0xFFFFFFFF, 0xC093)
SEGMENTS = {
    "segmented": (FLAT, (0xFFFFFFFF, 0, 0x7FFF, 0xC093)),
    "based": (FLAT, (0xFFFFFFFF, 0x1000, 0xFFFFFFFF, 0xC093)),
    "stack16": (FLAT, (0xFFFFFFFF, 0, 0xFFFFFFFF, 0x8093)),
    "cs64k": (FLAT, (0xFFFF, 0, 0xFFFFFFFF, 0xC093)),
    "cs_odd": (FLAT, (0xFFF, 0, 0xFFFFFFFF, 0xC093)),
    "data64k": (
        (0xFFFFFFFF, 0, 0xFFFE, 0x8093, 0xFFFF),
        (0xFFFFFFFF, 0x1000, 0xFFFF, 0x8093, 0xFFFF),
    ),
    "paragraphs": (
        (0xFFFFFFFF, 0, 0xFFFF, 0x8093, 0xFFFF),
        (0xFFFF, 0x1000, 0xFFFF, 0x8093, 0xFFFF, 0x10),
    ),
    "limited": (FLAT, (*FLAT, 0xFFFFFFFF, 0x11, 0xFFF)),
}
"""Limit of CS, base and limit of DS and ES, rights of SS: flat, and not; limit of SS, CR0, FS."""


def enter_32(
    board: Board,
    code: int,
    base: int,
    limit: int,
    stack: int,
    room: int = 0xFFFFFFFF,
    cr0: int = 0x11,
    fs: int | None = None,
) -> None:
    """Enter a few instructions of 32-bit code at a low address, with such segments."""
    p = board.p
    p.set("cr0", cr0)
    p.set("efer", 0)
    for i in (0, 3, 4, 5):
        p.set_segment(i, 0x10, base, limit if i != 4 or fs is None else fs, 0xC093)
    p.set_segment(2, 0x10, 0, room, stack)
    p.set_segment(1, 8, 0, code, 0xC09B)
    # mov eax, fs:[8000h]; mov eax, [8000h]; push eax; pop edx; jmp +20000h to HLT
    p.write_phys(0xE7A, bytes.fromhex("64a100800000 a100800000 50 5a e9f4ff0100"))
    p.write_phys(0x20E80, b"\xf4")
    p.write_phys(0x8000, b"\1\0\0\0")
    p.write_phys(0x9000, b"\2\0\0\0")
    board.set(rip=0xE7A, rsp=0x2F000, rflags=2, rax=0, rdx=0)


@pytest.mark.parametrize("change", SEGMENTS.values(), ids=SEGMENTS)
def test_code_runs_with_the_segments_of_now(change: tuple[tuple[int, ...], ...]) -> None:
    """Exceptions find no gate there, and shut the processor down."""
    def go_on(board: Board, segments: tuple[int, ...]) -> tuple[int, ...]:
        enter_32(board, *segments)
        board.p.write_phys(0xF000, bytes(4))
        board.p.write_phys(0x2EFFC, bytes(4))
        kind = int(board.p.run())
        return kind, board.get("rip"), board.get("rdx"), *board.p.read_phys(0x2EFFC, 1)

    board = Board()
    first, then = (go_on(Board(), segments) for segments in change)

    assert first != then
    for _ in range(3):
        assert [go_on(board, segments) for segments in change] == [first, then]
