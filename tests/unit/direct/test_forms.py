"""Every instruction is the same in a direct process, or traps, or is screened, or is listed.

An instruction that translated code copies is the same: it runs on the same processor.  Those that
have a rule there, or that the virtual processor does not have, are tried on this host.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from iced_x86 import Code, Code_, Decoder, Instruction, OpCodeInfo, OpKind, Register

from ringlet.direct.screening import clean
from ringlet.direct.zygote import Zygote
from ringlet.translate.classify import Innocuous, Refused, classify
from ringlet.translate.rules.registry import CODE_NAMES, code_name
from tests.unit.direct.guest import (
    CODE,
    DATA,
    PAGE,
    PAGE_FAULT,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RIP,
    RSI,
    RSP,
    SELECTORS,
    SIGSEGV,
    TRAP,
    USER_SELECTORS,
    DirectGuest,
)
from tests.unit.translate.enumeration import encoded, legacy, vex

ADR = Path(__file__).parents[3] / "docs" / "adr" / "0011-direct-execution.md"

OPERAND = DATA + 0x400
STACK = DATA + 0x800
TARGET = CODE + 0x800
USER_CODE, USER_DATA = 0x33, 0x2B

TRAPS_AFTER = frozenset({"INT1", "INT3", "INT_IMM8", "SYSCALL"})
"""They trap when they are done; the crossing carries them out anew, or their system call."""

THE_SAME = {
    r"(MOV_(\w+_)?MOFFS\d+.*|ENTER[QW]_.*)": "act on registers and memory only",
    r"(PUSH|POP)F[QW]": "spaces with an I/O privilege, or without interrupts, run translated",
    r"MOV_R(M16|32M16|64M16)_SREG|PUSH[QW]_[FG]S": "the host's selectors are the guest's",
    r"MOV_SREG_.*|POP[QW]_[FG]S|L[SFG]S_.*": "selectors are loaded anew at the trap",
    r"RDTSC": "spaces whose TSC is not the host's, or forbidden, run translated",
    r"(FLDENV|FRSTOR|FXRSTOR).*": "restore what they were given",
    r"RESERVEDNOP_.*|RDSSP[DQ].*|PREFETCHIT[01]_M8|CLDEMOTE_M8|BND.*":
        "NOPs, or hints, where the processor does not have them",
    r"SERIALIZE": "does nothing but wait",
}  # fmt: skip
"""Those with a rule that run directly, and why that is right."""

DIFFERENT = {
    "AVX-512, AMX, TSX, MPX and others that CPUID does not show": None,
    "RDFSBASE and its kind with CR4.FSGSBASE clear": r"(RD|WR)[FG]SBASE_R(32|64)",
    "far transfers to the selectors that Linux has": r"(CALL|JMP)_M16\d\d|RETF.*|IRET[DQW]",
    "FXSAVE, FNSTENV": r"FXSAVE.*|FNSTENV.*|FNSAVE.*",
}
"""The rows of the ADR's table, and the instructions that each is about (None: by CPUID)."""


@dataclass(frozen=True)
class Form:
    """One instruction, with its memory operand at `OPERAND`."""

    code: int
    memory: bool
    text: bytes

    @property
    def name(self) -> str:
        return code_name(self.code)

    def page(self) -> bytes:
        """A page with the instruction, where it is in sequence."""
        return (b"\x90" * 100 + self.text).ljust(PAGE, b"\x90")


def at_operand(instruction: Instruction) -> bytes | None:
    """Encode an instruction with RCX as the address of its operand; None: it has no such form."""
    copy = instruction.copy()
    copy.memory_base, copy.memory_index = Register.RCX, Register.NONE
    copy.memory_displacement, copy.memory_displ_size = 0, 0
    return encoded(copy)


@cache
def enumerated() -> tuple[Form, ...]:
    """A form with memory, and one without, of each instruction with legacy and VEX encodings."""
    found: dict[tuple[int, bool], Form] = {}
    for source in (legacy(64), vex(64)):
        for code in source:
            instruction = Decoder(64, code).decode()
            if instruction.code == Code.INVALID:
                continue
            operands = range(instruction.op_count)
            memory = any(instruction.op_kind(n) == OpKind.MEMORY for n in operands)
            key = instruction.code, memory
            if key not in found:
                own = at_operand(instruction) if memory else None
                whole = code[: instruction.len]
                if instruction.memory_displ_size == 8:
                    own = whole[:-8] + OPERAND.to_bytes(8, "little")
                found[key] = Form(*key, own or whole)
    return tuple(found.values())


def hidden(code: int) -> bool:
    """Whether an instruction is one of a feature that CPUID does not show."""
    kind = classify(Code_(code))
    return isinstance(kind, Refused) and "lacks" in kind.reason


@cache
def tried() -> tuple[Form, ...]:
    """What neither runs the same by its class, nor is hidden."""
    return tuple(
        form
        for form in enumerated()
        if not isinstance(classify(Code_(form.code)), Innocuous) and not hidden(form.code)
    )


@dataclass
class Trial:
    """A direct process for one instruction after another."""

    guest: DirectGuest

    def runs(self, form: Form) -> bool:
        """Whether an instruction does anything but trap with some operands."""
        return any(
            self._runs(form, operand, selector, number, words)
            for number in ((OPERAND,) if form.memory else (OPERAND, 0, 1))
            for operand in OPERANDS
            for selector in (0, USER_DATA)
            for words in ((TARGET, USER_CODE, 0x202, STACK, USER_DATA), (selector,))
        )

    def _runs(
        self, form: Form, operand: bytes, rax: int, rcx: int, words: tuple[int, ...]
    ) -> bool:
        process = self.guest.process
        os.pwrite(self.guest.ram, form.text.ljust(64, b"\xf4"), 0)
        os.pwrite(self.guest.ram, b"\xf4" * 16, TARGET - CODE)
        os.pwrite(self.guest.ram, operand.ljust(0x400, b"\0"), PAGE + OPERAND - DATA)
        # What POP, IRET and RETF find.
        size = 2 if form.text[0] == 0x66 else 8 if form.text[0] & 0xF8 == 0x48 else 4
        stack = b"".join((word % (1 << 8 * size)).to_bytes(size, "little") for word in words)
        os.pwrite(self.guest.ram, stack.ljust(64, b"\0"), PAGE + STACK - DATA)
        for register in (RBX, RDX, RSI, RDI):
            process.set(register, 0)
        process.set(RAX, rax)
        process.set(RCX, rcx)
        process.set(RSP, STACK)
        process.set(RIP, CODE)
        process.set(SELECTORS, USER_SELECTORS)
        process.poke(0, bytes(8))
        process.resume()
        assert process.wait()
        assert process.frame()
        after = CODE + len(form.text)
        if process.get(RIP) == CODE:
            # It comes as far as to its operand.
            return (process.signal, process.get(TRAP)) == (SIGSEGV, PAGE_FAULT)
        return not (form.name in TRAPS_AFTER and process.get(RIP) == after)


OPERANDS = (
    bytes(8),
    struct.pack("<IH", TARGET, USER_CODE),
    struct.pack("<QH", TARGET, USER_CODE),
    struct.pack("<HH", TARGET % (1 << 16), USER_CODE),
    struct.pack("<HH", 0, USER_DATA),
    struct.pack("<IH", 0, USER_DATA),
    struct.pack("<QH", 0, USER_DATA),
    struct.pack("<H", USER_DATA),
)
"""Contents of memory: zero, far pointers to code and data, a selector."""


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    guest = DirectGuest(Zygote(), b"")
    yield Trial(guest)
    guest.close()


def test_there_are_instructions_of_every_kind() -> None:
    assert len(enumerated()) > 3500
    assert len(tried()) > 200


def test_what_runs_though_it_has_a_rule_is_listed(trial: Trial) -> None:
    cpuid = not Zygote().cpuid_faults
    listed = [re.compile(p) for p in (*THE_SAME, *filter(None, DIFFERENT.values()))]
    found = {
        form.name: form.text.hex()
        for form in tried()
        if clean(form.page(), cpuid=cpuid)
        and trial.runs(form)
        and not any(pattern.fullmatch(form.name) for pattern in listed)
    }

    assert found == {}


def test_whatever_is_not_tried_is_copied_or_not_shown_by_cpuid() -> None:
    """Instructions with other encodings (EVEX, XOP, 3DNow!) are all of features that are hidden."""
    known = {form.code for form in enumerated()}
    others = [
        code
        for code in CODE_NAMES
        if OpCodeInfo(Code_(code)).mode64
        and code not in known
        and OpCodeInfo(Code_(code)).encoding not in (0, 1)
    ]

    assert len(others) > 1500
    assert [code_name(code) for code in others if not hidden(code)] == []


def test_every_entry_of_the_list_is_about_an_instruction() -> None:
    names = {form.name for form in tried()}

    for pattern in (*THE_SAME, *filter(None, DIFFERENT.values())):
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_differences_are_those_of_the_decision() -> None:
    table = ADR.read_text().partition("## Different in a direct process")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "|" in line]

    assert rows[2:] == list(DIFFERENT)
