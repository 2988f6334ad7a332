"""Unicorn in real-address mode, for single instructions.

Unicorn checks no limits, is not exact with floating point, and does not tell repetitions of a
string from instructions.  So it serves for other instructions of general registers, without faults.
"""

from __future__ import annotations

import importlib
import random
from typing import Any, Final

from iced_x86 import (
    Code,
    CpuidFeature,
    Decoder,
    EncodingKind,
    Instruction,
    Mnemonic,
    OpCodeInfo,
    RflagsBits,
)
from unicorn import x86_const as x

from tests.unit.vcpu.board import AF, CF, DATA, IF, NAMES, OF, PF, SF, ZF
from tests.unit.vcpu.narrow_board import CS, ES, FLAGS, GS, RealBoard
from tests.unit.vcpu.narrow_chance import CHANCE, is_performed, vary

unicorn: Any = importlib.import_module("unicorn")  # its annotations are no use

SIZE: Final = 0x110000
MEMORY: Final = 0x30000
"""What is compared begins here: code, data and stack, 64 KiB each."""
MEMORY_SIZE: Final = 0x30000
_GPR: Final = [
    getattr(x, f"UC_X86_REG_{name}")
    for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")
]
_SEGMENTS: Final = [
    getattr(x, f"UC_X86_REG_{name}") for name in ("ES", "CS", "SS", "DS", "FS", "GS")
]
_GENERAL: Final = frozenset(
    {
        CpuidFeature.INTEL8086, CpuidFeature.INTEL186, CpuidFeature.INTEL286,
        CpuidFeature.INTEL386, CpuidFeature.INTEL486, CpuidFeature.CMOV, CpuidFeature.CX8,
        CpuidFeature.MULTIBYTENOP, CpuidFeature.INTEL8086_ONLY,
    }
)  # fmt: skip
_WITH_UNDEFINED_RESULTS: Final = frozenset({Mnemonic.BSWAP, Mnemonic.SHLD, Mnemonic.SHRD})
"""With 16-bit operands."""
_UNKNOWN: Final = frozenset(
    {Code.TEST_RM8_IMM8_F6R1, Code.TEST_RM16_IMM16_F7R1, Code.TEST_RM32_IMM32_F7R1}
)
"""Encodings that Unicorn takes for undefined."""
_UNDEFINED: Final = (
    (RflagsBits.OF, OF),
    (RflagsBits.SF, SF),
    (RflagsBits.ZF, ZF),
    (RflagsBits.AF, AF),
    (RflagsBits.CF, CF),
    (RflagsBits.PF, PF),
)


def forms(chance: random.Random, count: int) -> list[tuple[Instruction, bytes]]:
    """Return chance instructions of 16-bit code of general registers, with their bytes."""
    found: list[tuple[Instruction, bytes]] = []
    while len(found) < count:
        start = bytes((chance.randrange(256),))
        if chance.random() < 0.3:
            start = b"\x0f" + start
        code = vary(chance, 16, start + chance.randbytes(10))
        if code is not None:
            instruction = Decoder(16, code).decode()
            if is_general(instruction, code):
                found.append((instruction, code))
    return found


def is_general(instruction: Instruction, code: bytes) -> bool:
    """Whether Unicorn can tell what an instruction does."""
    info = OpCodeInfo(instruction.code)
    return (
        is_performed(instruction.code, 16)
        and info.encoding == EncodingKind.LEGACY
        and set(instruction.cpuid_features()) <= _GENERAL
        and instruction.mnemonic not in CHANCE | _WITH_UNDEFINED_RESULTS
        and instruction.code not in _UNKNOWN
        and 0xF0 not in code[:3]
        and not (instruction.has_rep_prefix or instruction.has_repne_prefix)
    )


def undefined(instruction: Instruction) -> int:
    """Return the flags that the manual leaves undefined."""
    flags = sum(flag for bit, flag in _UNDEFINED if instruction.rflags_undefined & bit)
    # Rotations by a count that is not 1.
    return flags | (OF if instruction.mnemonic in {Mnemonic.RCL, Mnemonic.RCR} else 0)


class RealUnicorn:
    """Unicorn's processor in real-address mode."""

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
        self._uc.mem_map(0, SIZE)
        self._linear = 0

    def load(self, board: RealBoard) -> None:
        """Take over a board's state."""
        uc = self._uc
        uc.ctl_flush_tb()
        uc.mem_write(0, board.p.read_phys(0, SIZE))
        for i, register in enumerate(_SEGMENTS):
            uc.reg_write(register, board.p.get_segment(i)[0])
        for name, register in zip(NAMES, _GPR, strict=False):
            uc.reg_write(register, board.get(name))
        uc.reg_write(x.UC_X86_REG_EFLAGS, board.get("rflags"))
        self._linear = board.p.get_segment(CS)[1] + board.get("rip")

    def step(self) -> tuple[list[int], int, int, bytes]:
        """Perform an instruction or a repetition; return registers, flags, EIP and memory."""
        uc = self._uc
        uc.emu_start(self._linear, SIZE, count=1)
        return (
            [uc.reg_read(register) for register in _GPR],
            uc.reg_read(x.UC_X86_REG_EFLAGS) & FLAGS,
            uc.reg_read(x.UC_X86_REG_EIP),
            bytes(uc.mem_read(MEMORY, MEMORY_SIZE)),
        )


def prepare(board: RealBoard, chance: random.Random) -> None:
    """Give a board chance registers, flags and memory; segments overlap."""
    for i in range(ES, GS + 1):
        if i != CS:
            board.segment(i, (DATA >> 4) + chance.choice((0, 0, 0x100, 0xFFF, 0x1000)))
    board.p.write_phys(MEMORY, chance.randbytes(MEMORY_SIZE))
    registers = {
        name: chance.getrandbits(32) if chance.random() < 0.5 else chance.getrandbits(16) & 0x7FFE
        for name in NAMES[:8]
    }
    registers["rsp"] = registers["rsp"] & ~1 | chance.choice((0, 0, 1))
    registers["rip"] = 0x1000 + chance.randrange(0x100)
    if chance.random() < 0.8:
        registers["rcx"] = registers["rcx"] & 0xFFFF0000 | chance.randrange(8)
    board.set(**registers, rflags=chance.getrandbits(12) & 0xCD5 | IF | 2)
