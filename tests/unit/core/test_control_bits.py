"""Bits of the control registers, as Python sees what compiled code uses."""

from __future__ import annotations

import re

from ringlet.core import control_bits
from tests.repo.layers import PACKAGE

DEFINITION = re.compile(r"^    (\w+) = (.+)$", re.MULTILINE)


def test_python_sees_what_compiled_code_uses() -> None:
    text = (PACKAGE / "core/control_bits.pxd").read_text()
    defined = {name: eval(value) for name, value in DEFINITION.findall(text)}

    assert {name: getattr(control_bits, name) for name in defined} == defined


def test_names_stand_for_one_bit_each() -> None:
    names = [name for name in vars(control_bits) if re.match(r"(CR0|CR4|EFER|XCR0)_", name)]

    assert len(names) == 31
    assert {name for name in names if getattr(control_bits, name).bit_count() != 1} == set()
