"""Instructions that programs execute often, on ordinary memory: none reaches the emulator.

`python -m tests.unit.vcpu.test_emulated_forms` lists every form that is translated to a call of the
emulator, with an example, from a share of all instructions.
"""

from __future__ import annotations

import itertools
import random
import struct
import sys
from collections.abc import Iterator

import pytest
from iced_x86 import Code, Decoder, Instruction, Mnemonic, OpKind, Register, RegisterExt

from ringlet.core.ops import Op
from ringlet.core.state import Exit
from ringlet.observe import EmulatedForm
from ringlet.translate.rules.registry import code_name
from ringlet.translate.translator import Translator
from tests.unit.vcpu.agreement import forms
from tests.unit.vcpu.board import DATA, DEVICE, HOLE, NAMES, PAGE_FAULT, UD, Board

ON = 0xFFFFFFFF
BYTE_STORES = frozenset({Mnemonic.MASKMOVQ, Mnemonic.MASKMOVDQU, Mnemonic.VMASKMOVDQU})
"""Only programs written for them use these; they store around the caches and are slow anywhere."""
BITS = frozenset({Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC})
WORD_STACK = frozenset({Mnemonic.PUSH, Mnemonic.POP, Mnemonic.LEAVE})
SWAPS = frozenset({Mnemonic.XCHG, Mnemonic.XADD})
HIGH = range(Register.AH, Register.BH + 1)
STACK_POINTERS = frozenset({Register.SP, Register.ESP})
PREFIXES = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
OVERRIDES = frozenset({Register.FS, Register.GS})


def why(i: Instruction, code: bytes) -> str | None:
    """Return why compilers and libraries do not emit an emulated instruction; None: they might."""
    prefixes = set(itertools.takewhile(PREFIXES.__contains__, code))
    gpr = [
        i.op_register(n)
        for n in range(i.op_count)
        if i.op_kind(n) == OpKind.REGISTER and RegisterExt.is_gpr(i.op_register(n))
    ]
    if 0x67 in prefixes and (i.is_vsib or i.mnemonic in BITS or i.is_string_instruction):
        return "32-bit addresses of a string, a bit string or a gather"
    if i.is_string_instruction and i.segment_prefix in OVERRIDES:
        return "a string in FS or GS"
    if i.mnemonic == Mnemonic.XLATB:
        return "XLAT with a prefix" if i.len > 1 else None
    if i.is_vsib and i.segment_prefix in OVERRIDES:
        return "a gather in FS or GS"
    if i.mnemonic in BYTE_STORES:
        return "a byte-masked store"
    if i.mnemonic in BITS and 0x66 in prefixes:
        return "a bit string of words, or with 66h for nothing"
    if i.mnemonic in WORD_STACK and 0x66 in prefixes:
        return "a 16-bit stack operation in 64-bit code, or with 66h for nothing"
    if i.mnemonic == Mnemonic.POP and i.memory_base == Register.RSP:
        return "POP to the stack with an index"
    if any(r in HIGH for r in gpr) and (i.mnemonic in SWAPS or STACK_POINTERS & set(gpr)):
        return "AH to DH exchanged with memory, or extended into RSP"
    return None


def leaves(translator: Translator, code: bytes) -> bool:
    """Whether the translation of one instruction calls the emulator."""
    translation = translator.translate(code, 0x400000, limit=1)
    return any(op == Op.OP_EMULATE for _, op in translation.operations)


def emulated(rate: float, seed: int = 1) -> Iterator[tuple[Instruction, bytes]]:
    """Yield the instructions, of a share of all, that leave for the emulator."""
    translator = Translator()
    for _, code in forms(random.Random(seed), rate):
        if leaves(translator, code):
            yield Decoder(64, code).decode(), code


def test_what_is_emulated_is_not_emitted_by_compilers() -> None:
    found = {
        code_name(i.code): code.hex()
        for i, code in emulated(0.03)
        if i.code != Code.INVALID and not performed(i) and why(i, code) is None
    }

    assert found == {}


def test_what_is_emulated_is_found() -> None:
    assert leaves(Translator(), bytes.fromhex("660ff7c1"))  # maskmovdqu xmm0, xmm1
    assert not leaves(Translator(), bytes.fromhex("C462BBF61E"))  # mulx r11, r8, [rsi]


def performed(i: Instruction) -> bool:
    """Whether compiled code performs the instruction before the emulator is asked."""
    return bool(i.is_vsib)


def run_here(code: str, **registers: int) -> tuple[dict[str, int], int]:
    """Run an instruction twice; return the registers and how many were emulated."""
    board = Board()
    board.p.write_phys(DATA, struct.pack("<8Q", *(0x1234567_89ABCDEF * n for n in range(1, 9))))
    board.set(**registers)
    kind = board.run(code)
    assert kind == Exit.EXIT_HLT
    return board.registers(), board.p.counters()["emulated"]


def performed_alike(code: str, **registers: int) -> None:
    """Assert that translated code does what the emulator does, without it."""
    other = Board()
    other.p.write_phys(DATA, struct.pack("<8Q", *(0x1234567_89ABCDEF * n for n in range(1, 9))))
    other.set(**registers)
    other.emulate(code)
    after, count = run_here(code, **registers)
    expected = other.registers()
    del after["rip"], expected["rip"]
    assert after == expected
    assert count == 0


# --- MULX

MULX_MEMORY = [
    "C462BBF61E",  # mulx r11, r8, [rsi]
    "C442BBF618",  # mulx r11, r8, [r8]
    "C442A3F64908",  # mulx r9, r11, [r9 + 8]
    "C402ABF61411",  # mulx r10, r10, [r9 + r10]
    "C462B3F60424",  # mulx r8, r9, [rsp]
    "C4623BF61E",  # mulx r11d, r8d, [rsi]
    "C4E2BBF626",  # mulx rsp, r8, [rsi]
    "C462DBF606",  # mulx r8, rsp, [rsi]
    "C4E2DBF626",  # mulx rsp, rsp, [rsi]
]
MULX_REGISTERS = [
    "C442BBF6DA",  # mulx r11, r8, r10
    "C442BBF6D8",  # mulx r11, r8, r8
    "C442BBF6C0",  # mulx r8, r8, r8
    "C442B3F6D2",  # mulx r10, r9, r10
    "C462BBF6DC",  # mulx r11, r8, rsp
    "C4E2BBF6E4",  # mulx rsp, r8, rsp
    "C442DBF6C1",  # mulx r8, rsp, r9
    "C4423BF6DA",  # mulx r11d, r8d, r10d
]


@pytest.mark.parametrize("code", MULX_MEMORY)
def test_mulx_of_memory_to_any_registers(code: str) -> None:
    performed_alike(
        code, rdx=0xFEDCBA9876543210, rsi=DATA + 8, r8=DATA + 16, r9=DATA, r10=24, r11=1,
        rsp=DATA + 32, rflags=0x8D7,
    )  # fmt: skip


@pytest.mark.parametrize("code", MULX_REGISTERS)
def test_mulx_of_any_registers(code: str) -> None:
    performed_alike(
        code, rdx=0xFEDCBA9876543210, r8=3, r9=1 << 63, r10=0x123456789ABCDEF1, r11=1,
        rsp=DATA + 32,
    )  # fmt: skip


def test_mulx_that_faults_changes_nothing() -> None:
    board = Board()
    board.set(rdx=5, rsi=HOLE, r8=6, r11=7)
    board.run("C462BBF61E")

    assert board.raised() == PAGE_FAULT
    assert (board.get("r8"), board.get("r11"), board.get("cr2")) == (6, 7, HOLE)


# --- gathers


def gather(code: str, board: Board | None = None, **registers: int) -> tuple[Board, int]:
    """Run a gather of ymm0 by ymm2 and mask ymm1; return the board and the number emulated."""
    board = board or Board()
    board.p.write_phys(DATA, struct.pack("<256I", *range(100, 356)))
    board.set(**registers)
    assert board.run(code) == Exit.EXIT_HLT
    return board, board.p.counters()["emulated"]


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *(v & ON for v in values))


def quads(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *(v & (1 << 64) - 1 for v in values))


@pytest.mark.parametrize("base", range(16))
@pytest.mark.parametrize("opcode", [0x90, 0x91, 0x92, 0x93])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("long", [False, True])
def test_gather_does_what_the_emulator_does(base: int, opcode: int, wide: bool, long: bool) -> None:
    # [base + ymm2 * 4 + disp8 (8)]; ymm2 has only small indices of either width.
    code = bytes((0xC4, 0xE2 ^ (base >> 3 << 5), 0x71 | wide << 7 | long << 2, opcode, 0x44,
                  0x90 | base & 7, 8))  # fmt: skip
    outcomes = []
    for emulator in (False, True):
        board = Board()
        board.p.write_phys(DATA, struct.pack("<256I", *range(100, 356)))
        board.set(**{NAMES[base]: DATA + 64})
        indices = quads(1, -2, 3, 0) if opcode & 1 else words(1, -2, 3, 0, 5, 6, -7, 8)
        board.set_vectors(
            ymm0=b"\xaa" * 32, ymm1=words(0, ON, ON, ON, ON, 0, 1 << 31, ON), ymm2=indices
        )
        if emulator:
            board.emulate(code)
        else:
            board.run(code)
            assert board.p.counters()["emulated"] == 0
        outcomes.append([board.vector(n) for n in range(3)])
    assert outcomes[0] == outcomes[1]


def test_gather_of_pointers_reaches_all_slots() -> None:
    board = Board()
    board.map(DATA, DATA | 7)
    board.set_vectors(ymm1=quads(-1, -1, 0, -1), ymm2=quads(DATA, DATA + 16, 1 << 60, DATA + 24))
    _, count = gather("C4E2F591041500000000", board)  # vpgatherqq ymm0, [ymm2], ymm1
    assert board.vector(0) == quads(100 | 101 << 32, 104 | 105 << 32, 0, 106 | 107 << 32)
    assert count == 0


@pytest.mark.parametrize("code", ["C4E275900493", "C4E275910493"])
def test_faulting_gather_has_done_the_lower_lanes(code: str) -> None:
    board = Board()
    hole = (HOLE - DATA) // 4
    indices = (quads if code[7] == "1" else words)(1, 2, hole, 3)
    board.set_vectors(ymm0=words(*[7] * 8), ymm1=words(ON, ON, ON, ON), ymm2=indices)
    gather(code, board, rbx=DATA)
    assert board.raised() == PAGE_FAULT
    assert board.get("cr2") == HOLE
    assert board.vector(0)[:16] == words(101, 102, 7, 7)
    assert board.vector(1)[:16] == words(0, 0, ON, ON)


def test_gather_with_a_register_twice_is_undefined() -> None:
    board, _ = gather("C4E27D900493", rbx=DATA)
    assert board.raised() == UD


def test_gather_from_an_unused_slot_gives_it_a_window() -> None:
    board = Board()
    board.poke(0x1000 + 8, 0x2000 | 7)  # a second half terabyte that shows the first
    board.set_vectors(ymm1=words(ON, ON), ymm2=words(1, 2))
    _, count = gather("C4E275900493", board, rbx=(1 << 39) + DATA)
    assert board.vector(0)[:8] == words(101, 102)
    assert count == 0


def test_gather_from_a_device_is_the_emulators() -> None:
    board = Board()
    board.device.set(0, words(1, 2, 3, 4))
    board.set_vectors(ymm1=quads(-1, 0, -1), ymm2=quads(2, 0, 1))
    _, count = gather("C4E275910493", board, rbx=DEVICE)
    assert board.device.reads[0] == (8, 4)
    assert count == 1


# --- indices in the base register

STATIC = 0x500000
"""Linear address of a static array, where programs that are not relocated have theirs."""


def array(code: str, speculate: bool, **registers: int) -> Board:
    """Run code with DATA at STATIC, two pages."""
    board = Board(speculate=speculate)
    board.poke(0x3000 + 16, 0x4000 | 7)  # 4 MiB on shows the first 2 MiB
    board.p.write_phys(STATIC & 0x1FFFFF, struct.pack("<256I", *range(100, 356)))
    board.set(**registers)
    assert board.run(code) == Exit.EXIT_HLT
    return board


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("base", [b for b in range(16) if b & 7 != 4])
def test_a_loop_that_counts_a_negative_index_up_to_zero(base: int, speculate: bool) -> None:
    rex = 0x48 | base >> 3
    code = bytes((
        *((0x41,) if base > 7 else ()), 0x03, 0x80 | (1 if base == 0 else 0) << 3 | base & 7,
        *(STATIC + 400).to_bytes(4, "little"),  # add eax (ecx), [base + STATIC + 400]
        rex, 0x83, 0xC0 | base & 7, 4,  # add base, 4
        0x75,
    ))  # fmt: skip
    code += (-len(code) - 1 & 0xFF).to_bytes(1, "little")
    board = array(code.hex(), speculate, **{"rax": 0, "rcx": 0, NAMES[base]: -400 & (1 << 64) - 1})

    assert board.get("rcx" if base == 0 else "rax") == sum(range(100, 200))
    assert board.p.counters()["emulated"] == 0


def test_a_negative_base_with_a_bounded_index() -> None:
    # mov ecx, ecx; mov eax, [rdx + rcx * 4 + STATIC]
    board = array("89C9 8B848A00005000", True, rdx=-16 & (1 << 64) - 1, rcx=5)

    assert board.get("rax") == 101
    assert board.p.counters()["emulated"] == 0


# --- what a run tells of them


def test_emulated_forms_are_told_with_their_counts() -> None:
    board = Board()
    board.set(rbx=DEVICE, rdi=DATA)
    board.run("8B03 8B03 660FF7C1")  # mov eax, [rbx]; twice; maskmovdqu xmm0, xmm1

    assert board.p.emulated_forms() == [
        EmulatedForm("MOV r32, r/m32", 2, 2),
        EmulatedForm("MASKMOVDQU xmm1, xmm2", 1, 0),
    ]
    assert board.p.counters()["emulated"] == 3


def main() -> None:
    """List the forms that are emulated, each with an example."""
    rate = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1
    listed = set()
    for i, code in emulated(rate):
        reason = why(i, code) or ("compiled code performs it" if performed(i) else "NONE")
        name = code_name(i.code)
        if (name, reason) not in listed:
            listed.add((name, reason))
            print(f"{name:<32} {code.hex():<24} {i!s:<44} {reason}")


if __name__ == "__main__":
    main()
