"""The names of places and modes."""

import pytest

from ringlet.core.state import Key
from ringlet.machine.place import code_bits, in_long_mode, mode, place, program_counter
from tests.unit.machine.fake_cpu import FakeCpu

PE, VM, LMA = 1, 1 << 17, 0x400
MODES = [
    (Key.KEY_MODE16, 0, 0, 0, "real mode"),
    (Key.KEY_MODE16, PE, VM, 0, "virtual-8086 mode"),
    (Key.KEY_MODE16, PE, 0, 0, "protected mode (16-bit code)"),
    (Key.KEY_MODE32, PE, 0, 0, "protected mode (32-bit code)"),
    (Key.KEY_MODE32, 0, 0, 0, "real mode"),
    (Key.KEY_MODE16, PE, 0, LMA, "compatibility mode (16-bit code)"),
    (Key.KEY_MODE32, PE, 0, LMA, "compatibility mode (32-bit code)"),
    (Key.KEY_MODE64, PE, 0, LMA, "64-bit mode"),
]


def processor(key: int, cr0: int = 0, rflags: int = 0, efer: int = 0) -> FakeCpu:
    """Return a processor with CS 07C0h at 7C00h."""
    registers = {
        "key": key, "cr0": cr0, "rflags": rflags, "efer": efer, "rip": 0x12,
        "cs.selector": 0x7C0, "cs.base": 0x7C00,
    }  # fmt: skip
    return FakeCpu(registers=registers)


@pytest.mark.parametrize(("key", "cr0", "rflags", "efer", "name"), MODES)
def test_mode(key: int, cr0: int, rflags: int, efer: int, name: str) -> None:
    cpu = processor(key | Key.KEY_CPL, cr0, rflags, efer)

    assert mode(cpu) == name
    assert in_long_mode(cpu) == bool(efer)


@pytest.mark.parametrize(
    ("key", "bits", "text", "linear"),
    [
        (Key.KEY_MODE16, 16, "CS:IP 07c0:0012 (linear 0x7c12)", 0x7C12),
        (Key.KEY_MODE32, 32, "CS:EIP 07c0:00000012 (linear 0x7c12)", 0x7C12),
        (Key.KEY_MODE64, 64, "RIP 0x12", 0x12),
    ],
)
def test_place(key: int, bits: int, text: str, linear: int) -> None:
    cpu = processor(key)

    assert (code_bits(cpu), place(cpu, 0x12), program_counter(cpu)) == (bits, text, linear)


def test_linear_addresses_wrap_around() -> None:
    assert place(processor(Key.KEY_MODE32), 0xFFFFFFFF) == (
        "CS:EIP 07c0:ffffffff (linear 0x7bff)"
    )
