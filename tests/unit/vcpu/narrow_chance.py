"""Chance instructions of 16- and 32-bit code, and states for them.

`python -m tests.unit.vcpu.narrow_chance 7 0.1` compares a tenth of all forms, with seed 7, as the
emulator and the host's processor perform them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Final

from iced_x86 import Code, Decoder, Instruction, Mnemonic, OpCodeInfo

from ringlet.core.ops import Op
from ringlet.translate.classify import Innocuous, Ruled, classify
from tests.unit.translate.enumeration import legacy, vex
from tests.unit.vcpu.agreement import vector_state
from tests.unit.vcpu.board import AF, CF, OF, PF, SF, ZF
from tests.unit.vcpu.host_narrow import HostNarrow
from tests.unit.vcpu.narrow_board import (
    CODE16,
    CODE32,
    CODE_AT,
    DATA16,
    DATA32,
    DATA_BASE,
    DOWN16,
    DOWN32,
    EXECUTE16,
    EXECUTE32,
    FLAT,
    NULL,
    READ,
    SEGMENTS,
    SIZE,
    SMALL,
    STACKS,
    UPPER_SP,
    WRAPS,
    NarrowBoard,
    State,
)

CHANCE: Final = frozenset({Mnemonic.RDRAND, Mnemonic.RDSEED})
UNDEFINED: Final = {
    Mnemonic.AAA: OF | SF | ZF | PF,
    Mnemonic.AAS: OF | SF | ZF | PF,
    Mnemonic.AAM: OF | AF | CF,
    Mnemonic.AAD: OF | AF | CF,
    Mnemonic.DAA: OF,
    Mnemonic.DAS: OF,
}
"""Flags that the manual leaves undefined, for instructions that the host does not perform."""
_PREFIXES: Final = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67)
_EDGES: Final = (0, 0x7F8, 0x8000, 0xFFF8)


def is_performed(code: int, bits: int) -> bool:
    """Whether the emulator performs an instruction, rather than a rule."""
    match classify(code, bits):
        case Innocuous():
            return True
        case Ruled(rule):
            return rule.op in {Op.OP_EMULATE, Op.OP_PUSHF}
        case _:
            return False


def is_peculiar(instruction: Instruction, code: bytes) -> bool:
    """Whether vendors differ, where the SDM lets them or against its words.

    AMD's processors take F2h and F3h before LOOPE and LOOPNE for conditions, and VEX.W with VPINSRD
    and VPEXTRD for the 64-bit form, which raises #UD here.
    """
    if instruction.mnemonic in {Mnemonic.LOOPE, Mnemonic.LOOPNE}:
        return instruction.has_repne_prefix or instruction.has_rep_prefix or b"\xf3" in code[:3]
    if instruction.mnemonic in {Mnemonic.VPINSRD, Mnemonic.VPEXTRD}:
        return code[code.index(0xC4) + 2] >= 0x80
    return False


def forms(chance: random.Random, bits: int, rate: float) -> Iterator[bytes]:
    """Yield a share of all instructions, with chance prefixes and operands."""
    for source in (legacy(bits), vex(bits)):
        for code in source:
            if chance.random() < rate:
                varied = vary(chance, bits, code)
                if varied is not None:
                    yield varied


def vary(chance: random.Random, bits: int, code: bytes) -> bytes | None:
    """Return an instruction like `code` with other operands; None if it is not the emulator's."""
    start = len(code) - 10
    if chance.random() < 0.7:
        code = code[: start + 1] + chance.randbytes(9)
    if chance.random() < 0.5:
        code = code[:start] + chance.randbytes(10)
    if chance.random() < 0.4:
        code = bytes((chance.choice(_PREFIXES),)) + code
    decoder = Decoder(bits, code)
    instruction = decoder.decode()
    if instruction.code == Code.INVALID or instruction.mnemonic in CHANCE:
        return None
    if not is_performed(instruction.code, bits) or is_peculiar(instruction, code):
        return None
    offsets = decoder.get_constant_offsets(instruction)
    varied = bytearray(code[: instruction.len])
    for at, size in (
        (offsets.displacement_offset, offsets.displacement_size),
        (offsets.immediate_offset, offsets.immediate_size),
    ):
        if size == 4 and chance.random() < 0.9:
            value = chance.choice((chance.randrange(0x10000), chance.randrange(-128, 128)))
            varied[at : at + size] = (value & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(varied)


def state_for(chance: random.Random, bits: int, code: bytes) -> State:
    """Return a state in which the instruction often finds its operands."""
    segments, pointer = _segments(chance, bits)
    registers = [_register(chance, pointer) for _ in range(8)]
    if chance.random() < 0.7:
        registers[1] = chance.randrange(8)
    edge = chance.choice(_EDGES) + chance.randrange(16) - 8
    stack = edge if chance.random() < 0.2 else 0x8100 + 2 * chance.randrange(0x100)
    if segments[2] == SMALL:
        stack &= 0x7FF
    registers[4] = (stack + (DATA_BASE if segments[2] == FLAT else 0)) & 0xFFFFFFFF
    if not SEGMENTS[segments[2]].big:
        registers[4] = UPPER_SP | registers[4] & 0xFFFF
    instruction = Decoder(bits, code).decode()
    state = State(
        code,
        segments,
        registers,
        chance.getrandbits(12) & 0xCD5 | 2,
        CODE_AT,
        chance.randbytes(SIZE),
        vector_state(chance),
    )
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        registers[1] = chance.randrange(20) | chance.choice((0, 0, 0x10000)) * (bits == 16)
    where = chance.random()
    if where < 0.03 and state.steps:
        state.eip = 0x10000 - len(code)
    elif where < 0.06:
        state.eip = CODE_AT + 0x1000 - chance.randrange(len(code))
    return state


def _segments(chance: random.Random, bits: int) -> tuple[list[int], int]:
    """Return segments, and what is to be added to offsets to point to data."""
    readable = chance.random() < 0.8
    code = (CODE16 if readable else EXECUTE16) if bits == 16 else CODE32 if readable else EXECUTE32
    if chance.random() < 0.2:
        return [FLAT, code, FLAT, FLAT, FLAT, FLAT], DATA_BASE
    rare = (SMALL, READ, DOWN16, DOWN32, WRAPS, FLAT, NULL, CODE16)
    data = [
        chance.choice(rare) if chance.random() < 0.25 else chance.choice((DATA16, DATA32))
        for _ in range(6)
    ]
    data[1] = code
    data[2] = chance.choice(STACKS) if chance.random() < 0.5 else DATA32
    return data, 0


def _register(chance: random.Random, pointer: int) -> int:
    kind = chance.random()
    if kind < 0.05:
        return chance.getrandbits(32)
    if kind < 0.15:
        return chance.randrange(8)
    if kind < 0.2:
        return chance.choice(_EDGES) + chance.randrange(16) - 8 & 0xFFFFFFFF
    if kind < 0.3:
        return chance.getrandbits(32) & 0xFFFF7FFF
    return pointer + 0x8000 + 64 * chance.randrange(0x100) + chance.choice((0, 0, 0, 1, 4, 8, 16))


class Comparison:
    """The emulator and the host's processor, which perform the same instructions."""

    def __init__(self, host: HostNarrow, seed: int) -> None:
        self._host = host
        self._board = NarrowBoard()
        self._chance = random.Random(seed)

    def run(self, bits: int, rate: float) -> tuple[int, dict[str, list[str]]]:
        """Compare a share of all forms; return how many, and the differences."""
        found: dict[str, list[str]] = {}
        tried = 0
        for code in forms(self._chance, bits, rate):
            tried += 1
            state = state_for(self._chance, bits, code)
            instruction = Decoder(bits, code).decode()
            differences = self.differences(state, instruction)
            if differences:
                name = OpCodeInfo(instruction.code).instruction_string
                segments = ",".join(str(s) for s in state.segments)
                found[f"{bits} {code.hex()} {name} ({segments})"] = differences
        return tried, found

    def differences(self, state: State, instruction: Instruction) -> list[str]:
        """Perform an instruction both ways."""
        mine, theirs = self._board.perform(state), self._host.perform(state)
        if instruction.mnemonic in {Mnemonic.POPA, Mnemonic.POPAD} and theirs.exception is not None:
            # AMD's processors have popped some registers by then.
            theirs.registers = mine.registers
        return mine.difference(theirs, UNDEFINED.get(instruction.mnemonic, 0))


def main() -> None:
    """Compare a share of the forms of both modes, and print the differences."""
    seed, rate = int(sys.argv[1]), float(sys.argv[2])
    with HostNarrow() as host:
        comparison = Comparison(host, seed)
        for bits in (16, 32):
            tried, found = comparison.run(bits, rate)
            print(f"{tried} instructions of {bits}-bit code, {len(found)} differ")
            for name, differences in found.items():
                print(name, *differences, sep="; ")


if __name__ == "__main__":
    main()
