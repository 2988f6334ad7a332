"""Instructions that cover the keys of shapes: prefixes x opcodes x ModRM bytes.

`python -m tests.unit.translate.enumeration 64` compares every ModRM byte, a hundred seconds and
fifteen million instructions; the tests take a sample of the operands and all of the opcodes.
"""

import sys
from collections import Counter
from collections.abc import Iterator

from iced_x86 import Code, Code_, Decoder, Encoder, Instruction
from tests.unit.translate.reference import Shapes, immediate_length, operand_length

from ringlet.translate.classify import Refused, classify
from ringlet.translate.key import (
    GROUP_MODRM,
    GROUP_REG,
    GROUP_RM,
    group_index,
    opcode_groups,
    parse,
)
from ringlet.translate.rules.registry import code_name

ALL = range(256)
OPERANDS = (0x00, 0x04, 0x0D, 0x44, 0x9C, 0xC1, 0xDA, 0xE7, 0xFF)
SIB_AND_REST = bytes((0x25, 3, 3, 3, 3, 3, 3, 3, 3))
ESCAPES = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
NOT_OPCODES = {
    0: {0x0F, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3},
    1: {0x38, 0x3A},
    2: set[int](),
    3: set[int](),
}
NOT_OPCODES_64 = {*range(0x40, 0x50), 0xC4, 0xC5}
PREFIXES = (b"", b"\x66", b"\xf2", b"\xf3", b"\x66\xf2", b"\xf3\x66", b"\xf0", b"\x67")
MORE_PREFIXES = (b"\x66\xf0", b"\xf2\xf0", b"\xf3\xf2")


def legacy(mode: int, thorough: bool = False) -> Iterator[bytes]:
    """Yield instructions of the legacy encoding."""
    groups = opcode_groups(mode)
    rexes = (b"", b"\x41", b"\x48", b"\x4f") if mode == 64 else (b"",)
    for prefix in PREFIXES + MORE_PREFIXES * thorough:
        for rex in rexes:
            for opcode_map, escape in enumerate(ESCAPES):
                for opcode in ALL:
                    if opcode in NOT_OPCODES[opcode_map]:
                        continue
                    if mode == 64 and opcode_map == 0 and opcode in NOT_OPCODES_64:
                        continue
                    group = groups[group_index(False, opcode_map, opcode)]
                    start = prefix + rex + escape + bytes((opcode,))
                    for modrm in _modrms(group, thorough):
                        yield start + bytes((modrm,)) + SIB_AND_REST


def vex(mode: int, thorough: bool = False) -> Iterator[bytes]:
    """Yield instructions with a three-byte VEX prefix."""
    groups = opcode_groups(mode)
    extensions = (0xE0, 0x40) if mode == 64 else (0xE0,)
    for opcode_map in (1, 2, 3):
        for opcode in ALL:
            group = groups[group_index(True, opcode_map, opcode)]
            modrms = list(_modrms(group, thorough))
            for wlpp in range(16):
                for vvvv in (15, 10) if mode == 64 else (15, 11):
                    last = (wlpp & 8) << 4 | vvvv << 3 | wlpp & 7
                    for extension in extensions:
                        start = bytes((0xC4, extension | opcode_map, last, opcode))
                        for modrm in modrms:
                            yield start + bytes((modrm,)) + SIB_AND_REST


def encoded(instruction: Instruction) -> bytes | None:
    """Encode an instruction for 64-bit mode; None: it has no such form."""
    encoder = Encoder(64)
    try:
        encoder.encode(instruction, 0)
    except ValueError:
        return None
    return encoder.take_buffer()


def _modrms(group: int, thorough: bool) -> Iterator[int]:
    if not group & GROUP_MODRM:
        yield 0xC1
    elif thorough or group & GROUP_RM:
        yield from ALL
    elif group & GROUP_REG:
        yield from range(0, 64, 8)
        yield from range(4, 64, 8)
        yield from range(193, 256, 8)
    else:
        yield from OPERANDS


class Comparison:
    """Counts where the shape learned for a key and iced-x86's view of the bytes disagree."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.shapes = Shapes()
        self.seen: set[int] = set()
        self.disagreements: Counter[tuple[str, str, str]] = Counter()
        self._refused: dict[int, bool] = {}

    def compare(self, code: bytes) -> None:
        actual = Decoder(self.mode, code).decode()
        parsed = parse(code, self.mode)
        self.seen.add(actual.code)
        if parsed is None or parsed.bad_prefix:
            if not self.refused(actual.code):
                self._note("prefix", actual.code, Code.INVALID)
            return
        shape = self.shapes[parsed.key]
        if self.refused(actual.code) or self.refused(shape.code16):
            if self.refused(actual.code) != self.refused(shape.code16):
                self._note("exists", actual.code, shape.code16)
            return
        if actual.code != shape.code16:
            self._note("differs", actual.code, shape.code16)
            return
        length = parsed.after_opcode + operand_length(code, parsed)
        if length + immediate_length(parsed, shape) != actual.len:
            self._note("length", actual.code, shape.code16)

    def refused(self, code: int) -> bool:
        if code not in self._refused:
            self._refused[code] = isinstance(classify(Code_(code), self.mode), Refused)
        return self._refused[code]

    def _note(self, what: str, actual: int, learned: int) -> None:
        self.disagreements[what, code_name(actual), code_name(learned)] += 1


def main() -> None:
    """Print every disagreement of a mode, thoroughly."""
    comparison = Comparison(int(sys.argv[1]))
    for source in (legacy, vex):
        for code in source(comparison.mode, thorough=True):
            comparison.compare(code)
    print(len(comparison.shapes), "keys")
    for (what, actual, learned), count in sorted(comparison.disagreements.items()):
        print(f"{what:8} {count:6} actual {actual}, learned {learned}")


if __name__ == "__main__":
    main()
