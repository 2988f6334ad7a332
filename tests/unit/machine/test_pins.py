"""The pins by which devices reach the processor, until they are cut."""

import gc
import weakref

import pytest

from ringlet.machine.pc import Options, assemble
from ringlet.machine.pins import Pins
from tests.unit.machine.fake_cpu import FakeCpu


def test_calls_reach_the_processor_until_the_pins_are_cut() -> None:
    cpu = FakeCpu()
    pins = Pins(cpu)

    pins.set_interrupt(True)
    before = cpu.pending
    pins.cut()
    pins.set_interrupt(False)

    assert (before, cpu.pending) == (True, True)


@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [("set_interrupt", [True], None), ("message", [0xFEE00000, 0x31], None),
     ("drop_code", [0, 4096], None), ("add_doorbell", [0, 2, None, 5], False),
     ("remove_doorbell", [0, 2, None], None)],
)  # fmt: skip
def test_nothing_comes_of_a_call_after_that(
    call: str, arguments: list[object], answer: object
) -> None:
    pins = Pins(FakeCpu())
    pins.cut()

    assert getattr(pins, call)(*arguments) is answer


def test_machine_that_is_taken_apart_gives_its_processor_back_and_keeps_nothing() -> None:
    cpu = FakeCpu()
    there = weakref.ref(cpu)
    pc = assemble(cpu, Options())
    gc.disable()
    try:
        assert pc.machine.free() is cpu
        del cpu
        assert there() is None
    finally:
        gc.enable()
    pc.machine.post(lambda: None)
    pc.machine.timer_changed()
