"""Bits of the control registers, as Python sees what compiled code uses."""

from __future__ import annotations

import re

from ringlet.core.control_bits import Cr0, Cr4, Efer, Xcr0
from tests.repo.layers import PACKAGE

DEFINITION = re.compile(r"^    (\w+) = (.+)$", re.MULTILINE)
BITS = {bit.name: int(bit) for register in (Cr0, Cr4, Efer, Xcr0) for bit in register}


def test_python_sees_what_compiled_code_uses() -> None:
    text = (PACKAGE / "core/control_bits.pxd").read_text()
    defined = {name: eval(value) for name, value in DEFINITION.findall(text)}

    assert defined == BITS


def test_names_stand_for_one_bit_each() -> None:
    assert len(BITS) == 31
    assert {name for name, value in BITS.items() if value < 0 or value.bit_count() != 1} == set()
