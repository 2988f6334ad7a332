"""Emulated and translated instructions have the same effect: a sample of `agreement`'s forms."""

import pytest

from tests.unit.vcpu.agreement import Agreement


@pytest.mark.parametrize("seed", range(3))
def test_the_emulator_agrees_with_translated_code(seed: int) -> None:
    agreement = Agreement(seed)
    found = {
        f"{code.hex()} {instruction}": differences
        for instruction, code in agreement.pick(0.002)
        if (differences := agreement.differences(instruction, code))
    }
    assert found == {}
