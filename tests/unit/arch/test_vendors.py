"""The table of what vendors' processors do differently."""

import re
from pathlib import Path

import pytest

from ringlet.arch.vendors import Conduct, Vendor, vendor_of

STATE = Path(__file__).parents[3] / "src/ringlet/core/state.pxd"


@pytest.mark.parametrize(("signature", "vendor"), [
    ("GenuineIntel", Vendor.INTEL), ("AuthenticAMD", Vendor.AMD), ("HygonGenuine", Vendor.AMD),
    ("  Shanghai  ", Vendor.INTEL), ("CentaurHauls", Vendor.INTEL),
])  # fmt: skip
def test_vendor_of_a_signature(signature: str, vendor: Vendor) -> None:
    assert vendor_of(signature) is vendor


def test_compiled_code_has_the_same_numbers() -> None:
    found = re.findall(r"^    CONDUCT_(\w+) = 1 << (\d+)$", STATE.read_text(), re.MULTILINE)
    assert found
    assert {name: 1 << int(bit) for name, bit in found}.items() <= {
        c.name: c.value for c in Conduct}.items()
