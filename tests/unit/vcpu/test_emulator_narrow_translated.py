"""16- and 32-bit code has the same effect emulated and run, which is mostly translated code."""

import random

import pytest
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from tests.unit.vcpu.board import GP, PAGE_FAULT
from tests.unit.vcpu.narrow_board import NarrowBoard, Result, RunBoard, State
from tests.unit.vcpu.narrow_chance import forms, state_for

LONGEST_OPERAND = 32


def can_run(instruction: Instruction, state: State) -> bool:
    """Whether `RunBoard` can run an instruction: a breakpoint follows it."""
    return (
        instruction.flow_control == FlowControl.NEXT
        and instruction.mnemonic not in {Mnemonic.PUSHF, Mnemonic.PUSHFD}
        and state.eip + instruction.len < 0x10000
    )


def passes_4_gib(emulated: Result, run: Result) -> bool:
    """Whether an operand begins below 4 GiB and ends above, which SDM 3A 5.3 leaves open."""
    return (
        emulated.exception == (GP, 0)
        and run.exception is not None
        and run.exception[0] == PAGE_FAULT
        and run.cr2 > 0xFFFFFFFF - LONGEST_OPERAND
    )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("seed", range(2))
def test_the_emulator_agrees_with_translated_code(bits: int, seed: int) -> None:
    chance = random.Random(seed)
    emulator, run = RunBoard(), RunBoard()
    found = {}
    tried = 0
    for code in forms(chance, bits, 0.06):
        instruction = Decoder(bits, code).decode()
        state = state_for(chance, bits, code)
        if not can_run(instruction, state):
            continue
        tried += 1
        one, other = emulator.perform(state), run.run_to_breakpoint(state)
        differences = other.difference(one)
        if differences and not passes_4_gib(one, other):
            found[f"{code.hex()} {instruction} {state.segments}"] = differences

    assert found == {}
    assert tried > 700
    assert run.p.counters()["emulated"] < tried


@pytest.mark.parametrize("code", ["C4E3594AC180", "C4E3794B0392", "C4E37D4CDBFF"])
def test_the_highest_bit_of_a_fourth_register_is_ignored(code: str) -> None:
    state = state_for(random.Random(7), 32, bytes.fromhex(code))
    state.segments[:] = [4, 1, 4, 4, 4, 4]
    state.registers[3] = 0x8000

    result = RunBoard().run_to_breakpoint(state)

    assert result.exception is None
    assert result.difference(NarrowBoard().perform(state)) == []
