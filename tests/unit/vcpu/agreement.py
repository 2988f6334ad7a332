"""The general emulator compared with translated code, that is, with the host's processor.

Every innocuous instruction form runs with chance registers, vector state and memory, once emulated
and once translated; what it leaves must be the same.  `python -m tests.unit.vcpu.agreement 7 0.2`
tries a fifth of the forms with seed 7.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from iced_x86 import (
    Code,
    Decoder,
    FlowControl,
    Instruction,
    Mnemonic,
    OpKind,
    Register,
    Register_,
    RegisterExt,
    RflagsBits,
)

from ringlet.core.state import Exit
from ringlet.translate.classify import Innocuous, classify
from tests.unit.translate.enumeration import encoded, legacy, vex
from tests.unit.vcpu.board import (
    AF,
    CF,
    CODE,
    DATA,
    DATA_SIZE,
    HANDLERS,
    NAMES,
    OF,
    PD,
    PF,
    SF,
    STACK,
    ZF,
    Board,
)

FAR = 0x3000000
"""Linear address of 2 MiB that the enumeration's displacements reach."""
FAR_PHYS = 0x200000
FAR_USED = FAR_PHYS + 0x20000
STATUS = CF | PF | AF | ZF | SF | OF
CHANCE = frozenset({Mnemonic.RDRAND, Mnemonic.RDSEED})

_UNDEFINED = (
    (RflagsBits.OF, OF),
    (RflagsBits.SF, SF),
    (RflagsBits.ZF, ZF),
    (RflagsBits.AF, AF),
    (RflagsBits.CF, CF),
    (RflagsBits.PF, PF),
)


def forms(chance: random.Random, rate: float) -> Iterator[tuple[Instruction, bytes]]:
    """Return a share of the innocuous instructions of 64-bit code that do not jump."""
    for source in (legacy(64), vex(64)):
        for code in source:
            if chance.random() >= rate:
                continue
            instruction = Decoder(64, code).decode()
            if instruction.code == Code.INVALID or instruction.mnemonic in CHANCE:
                continue
            if not isinstance(classify(instruction.code), Innocuous):
                continue
            if instruction.flow_control == FlowControl.NEXT:
                yield instruction, code[: instruction.len]
                other = shuffled(instruction, chance)
                if other is not None:
                    yield instruction, other


def shuffled(instruction: Instruction, chance: random.Random) -> bytes | None:
    """Return the instruction with a few other general registers; None if it has no such form."""
    few = [chance.randrange(16) for _ in range(chance.randrange(1, 4))]
    copy = instruction.copy()
    for i in range(copy.op_count):
        if copy.op_kind(i) == OpKind.REGISTER and RegisterExt.is_gpr(copy.op_register(i)):
            copy.set_op_register(i, _like(copy.op_register(i), chance.choice(few)))
    if RegisterExt.is_gpr(copy.memory_base):
        copy.memory_base = _like(copy.memory_base, chance.choice(few))
    if RegisterExt.is_gpr(copy.memory_index):
        copy.memory_index = _like(copy.memory_index, chance.choice(few))
    return encoded(copy)


def _like(register: Register_, number: int) -> Register_:
    """Return register `number` in the size of another; byte registers include AH to BH."""
    match RegisterExt.size(register):
        case 1:
            first = Register.AL if register < Register.SPL else Register.AL + 4
            return Register_(first + number)
        case 2:
            return Register_(Register.AX + number)
        case 4:
            return Register_(Register.EAX + number)
        case _:
            return Register_(Register.RAX + number)


def vector_state(chance: random.Random) -> bytes:
    """Return an XSAVE image with normal and special numbers; some exceptions may be unmasked."""
    image = bytearray(832)
    status, tags = chance.choice((0, 0, 0x3800)), chance.choice((0, 0xFF))
    mxcsr = chance.choice((*[0x1F80] * 6, 0x1D80, 0))
    struct.pack_into("<HHBxHQQII", image, 0, 0x37F, status, tags, 0, 0, 0, mxcsr, 0xFFFF)
    for i in range(8):
        exponent = chance.choice((0x3FFF, 0x4001, 0xBFFE, 0x4010, 0x3F00))
        significand = chance.getrandbits(63) | 1 << 63
        image[32 + 16 * i : 42 + 16 * i] = struct.pack("<QH", significand, exponent)
    for start in (160, 576):
        for at in range(start, start + 256, 8):
            image[at : at + 8] = _lane(chance)
    image[512] = 7
    return bytes(image)


def _lane(chance: random.Random) -> bytes:
    match chance.randrange(4):
        case 0:
            return struct.pack("<ff", chance.uniform(-100, 100), chance.uniform(-1, 1))
        case 1:
            return struct.pack("<d", chance.uniform(-1e5, 1e5))
        case 2:
            return chance.randbytes(8)
        case _:
            return bytes(chance.choice((0, 0xFF, 0x80)) for _ in range(8))


@dataclass
class Start:
    """The state in which both runs begin."""

    registers: dict[str, int]
    flags: int
    vectors: bytes
    memory: bytes

    @staticmethod
    def chance(chance: random.Random) -> Start:
        """Return registers that mostly point to data, often aligned, and sometimes to no memory."""
        registers = {}
        for name in NAMES:
            kind = chance.random()
            offset = chance.choice((0, 0, 0, 1, 4, 8, 16))
            registers[name] = DATA + 0x4000 + 64 * chance.randrange(256) + offset
            if kind < 0.1:
                registers[name] = chance.getrandbits(64)
            elif kind < 0.2:
                registers[name] = chance.randrange(8)
        if chance.random() < 0.7:
            registers["rcx"] = chance.randrange(8)
        registers["rsp"] = STACK - 8 * chance.randrange(4)
        flags = chance.getrandbits(12) & 0xCD5 | 2
        return Start(registers, flags, vector_state(chance), chance.randbytes(DATA_SIZE))

    def apply(self, board: Board) -> None:
        """Set the board's state."""
        board.enter(0)
        board.p.write_phys(DATA, self.memory)
        board.p.write_phys(FAR_USED, self.memory * 3)
        board.p.write_phys(0, bytes(0x1000))
        board.p.write_phys(STACK - 0x200, bytes(0x400))
        board.p.set_xsave(self.vectors)
        board.set(rflags=self.flags, cr2=0, **self.registers)


@dataclass
class Outcome:
    """The outcome of a run, without state that no manual defines."""

    registers: dict[str, int]
    cr2: int
    vectors: bytes
    memory: bytes

    @staticmethod
    def of(board: Board, instruction: Instruction) -> Outcome:
        """Return the board's state after the instruction or at its exception's handler."""
        registers = board.registers()
        ignored = sum(flag for bit, flag in _UNDEFINED if instruction.rflags_undefined & bit)
        if HANDLERS <= registers["rip"] < HANDLERS + 512:
            # Status flags that an instruction overwrites need not be exact when it faults.
            ignored = STATUS
        registers["rflags"] &= ~ignored
        image = bytearray(board.p.get_xsave())
        image[8:24] = bytes(16)  # the last x87 instruction and operand
        image[28:32] = bytes(4)
        image[512] = 0
        stack = board.p.read_phys(STACK - 0x200, 0x400) if ignored != STATUS else b""
        memory = board.p.read_phys(DATA, DATA_SIZE) + board.p.read_phys(0, 0x1000) + stack
        memory += board.p.read_phys(FAR_USED, 3 * DATA_SIZE)
        return Outcome(registers, board.get("cr2"), bytes(image), memory)

    def difference(self, other: Outcome) -> list[str]:
        """Return the differences between two outcomes."""
        result = [
            f"{name} {value:#x} {other.registers[name]:#x}"
            for name, value in self.registers.items()
            if value != other.registers[name]
        ]
        if self.cr2 != other.cr2:
            result.append(f"cr2 {self.cr2:#x} {other.cr2:#x}")
        for what, mine, theirs in (
            ("vectors", self.vectors, other.vectors),
            ("memory", self.memory, other.memory),
        ):
            places = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b]
            if places or len(mine) != len(theirs):
                result.append(f"{what} at {places[:8]}")
        return result


class Agreement:
    """Two boards that run the same instruction from the same state."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._boards = Board(), Board()
        for board in self._boards:
            board.poke(PD + 8 * (FAR >> 21), FAR_PHYS | 0x87)

    def pick(self, rate: float) -> Iterator[tuple[Instruction, bytes]]:
        """Run a share of all forms."""
        return forms(self._chance, rate)

    def differences(self, instruction: Instruction, code: bytes) -> list[str]:
        """Run one instruction both ways, up to the HLT after it or in its handler."""
        start = Start.chance(self._chance)
        if instruction.has_rep_prefix or instruction.has_repne_prefix:
            # A count with an address as its value would overwrite the board's own tables.
            start.registers["rcx"] = self._chance.randrange(8)
        outcomes = []
        for board, emulated in zip(self._boards, (True, False), strict=True):
            start.apply(board)
            board.place(code)
            kind = board.p.emulate() if emulated else Exit.EXIT_NONE
            while kind == Exit.EXIT_NONE:
                kind = board.p.run()
            assert kind == Exit.EXIT_HLT, (code.hex(), kind)
            outcomes.append(Outcome.of(board, instruction))
        return outcomes[0].difference(outcomes[1])


def main() -> None:
    """Run a share of the forms and print the differences."""
    seed, rate = int(sys.argv[1]), float(sys.argv[2])
    agreement = Agreement(seed)
    tried = 0
    for instruction, code in agreement.pick(rate):
        tried += 1
        found = agreement.differences(instruction, code)
        if found:
            print(code.hex(), instruction, *found, sep="; ")
    print(f"{tried} instructions tried; they begin at {CODE:#x}")


if __name__ == "__main__":
    main()
