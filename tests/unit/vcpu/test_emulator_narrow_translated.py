"""16- and 32-bit code has the same effect emulated and run, which is mostly translated code."""

import random

import pytest
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic

from tests.unit.vcpu.narrow_board import FLAT, WRAPS, WRAPS16, NarrowBoard, RunBoard, State
from tests.unit.vcpu.narrow_chance import forms, state_for

WHOLE_SPACE = frozenset({FLAT, WRAPS, WRAPS16})


def can_run(instruction: Instruction, state: State) -> bool:
    """Whether `RunBoard` can run an instruction: a breakpoint follows it, and it sees no tables."""
    return (
        instruction.flow_control == FlowControl.NEXT
        and instruction.mnemonic not in {Mnemonic.PUSHF, Mnemonic.PUSHFD}
        and not WHOLE_SPACE & set(state.segments)
        and state.eip + instruction.len < 0x10000
    )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("seed", range(2))
def test_the_emulator_agrees_with_translated_code(bits: int, seed: int) -> None:
    chance = random.Random(seed)
    emulated, run = NarrowBoard(), RunBoard()
    found = {}
    tried = 0
    for code in forms(chance, bits, 0.06):
        instruction = Decoder(bits, code).decode()
        state = state_for(chance, bits, code)
        if not can_run(instruction, state):
            continue
        tried += 1
        differences = run.run_to_breakpoint(state).difference(emulated.perform(state))
        if differences:
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
