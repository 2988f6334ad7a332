"""16- and 32-bit code emulated and on the host's processor: every form, and a sample of operands.

The host needs an LDT (modify_ldt(2)) for the segments; a host without one skips these tests.
"""

import random
from collections.abc import Iterator

import pytest
from iced_x86 import Code_, Decoder, OpCodeInfo

from ringlet.translate.rules.registry import CODE_NAMES
from tests.unit.translate.enumeration import legacy, vex
from tests.unit.vcpu.host_narrow import HostNarrow, NoSegmentsError
from tests.unit.vcpu.narrow_board import DATA32, NarrowBoard, State
from tests.unit.vcpu.narrow_chance import CHANCE, Comparison, is_performed, state_for


@pytest.fixture(scope="module")
def host() -> Iterator[HostNarrow]:
    try:
        opened = HostNarrow()
    except NoSegmentsError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def examples(bits: int) -> dict[Code_, bytes]:
    """Return an instruction of every form of a mode's code, by `Code`."""
    found: dict[Code_, bytes] = {}
    loops = (bytes((0x66, 0x67, opcode, 2)) for opcode in range(0xE0, 0xE4))
    gathers = (b"\x67" + code for code in vex(bits) if 0x90 <= code[3] <= 0x93)
    for source in (legacy(bits), vex(bits), loops, gathers):
        for code in source:
            instruction = Decoder(bits, code).decode()
            found.setdefault(instruction.code, code[: instruction.len])
    return found


def performed(bits: int) -> set[Code_]:
    """Return the forms that the emulator has to perform; those with FWAIT are two instructions."""
    return {
        code
        for code in map(Code_, CODE_NAMES)
        if is_performed(code, bits)
        and OpCodeInfo(code).is_available_in_mode(bits)
        and not OpCodeInfo(code).fwait
    }


@pytest.mark.parametrize("bits", [16, 32])
def test_every_form_is_in_the_examples(bits: int) -> None:
    assert performed(bits) - examples(bits).keys() == set()


@pytest.mark.parametrize("bits", [16, 32])
def test_every_form_has_a_step(bits: int) -> None:
    board = NarrowBoard()
    chance = random.Random(1)
    known = examples(bits)
    names = set()
    for code in performed(bits):
        board.perform(state_for(chance, bits, known[code]))
        names.add(OpCodeInfo(code).instruction_string)

    assert {form.name for form in board.p.emulated_forms()} == names


@pytest.mark.parametrize("bits", [16, 32])
def test_every_form_does_what_the_host_does(host: HostNarrow, bits: int) -> None:
    comparison = Comparison(host, 2)
    chance = random.Random(bits)
    known = examples(bits)
    found = {}
    for code in sorted(performed(bits)):
        instruction = Decoder(bits, known[code]).decode()
        if instruction.mnemonic not in CHANCE:
            state = state_for(chance, bits, known[code])
            differences = comparison.differences(state, instruction)
            if differences:
                found[f"{known[code].hex()} {instruction}"] = differences

    assert found == {}


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("seed", range(2))
def test_chance_instructions_do_what_they_do_on_the_host(
    host: HostNarrow, bits: int, seed: int
) -> None:
    tried, found = Comparison(host, seed).run(bits, 0.03)

    assert found == {}
    assert tried > 1000


def test_the_comparison_sees_a_difference(host: HostNarrow) -> None:
    state = State(b"\x40", vectors=state_for(random.Random(1), 32, b"\x40").vectors)
    state.registers[4] = 0x8000
    other = State(b"\x41", state.segments, state.registers, vectors=state.vectors)

    assert state.segments[2] == DATA32
    assert host.perform(state).difference(NarrowBoard().perform(other)) == [
        "rax 0x1 0x0", "rcx 0x0 0x1", "memory at ['0x4000']",
    ]  # fmt: skip
