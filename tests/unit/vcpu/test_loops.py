"""LOOPE and LOOPNE with F2 or F3, which some processors take for the condition.

Sources: SDM 2A, LOOP; `ringlet.arch.vendors.Conduct.LOOP_TAKES_REPETITION`.
"""

from __future__ import annotations

import pytest

from ringlet.arch.vendors import Conduct
from ringlet.core.state import Exit
from tests.unit.vcpu.board import CODE, Board
from tests.unit.vcpu.flat_32 import flat_32

ZF = 0x40
START = 0x8000
LOOPE, LOOPNE = "E1", "E0"


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("zero", [0, ZF])
@pytest.mark.parametrize("opcode", [LOOPE, LOOPNE])
@pytest.mark.parametrize("prefix", ["", "F3", "F2", "F2F3", "F3F2", "67F3"])
def test_the_last_prefix_is_the_condition_or_none_is(
    prefix: str, opcode: str, zero: int, bits: int
) -> None:
    p, at = (Board().p, CODE) if bits == 64 else (flat_32(), START)
    p.write_phys(at, bytes.fromhex(prefix + opcode + "03F4909090F4"))
    p.set("rip", at)
    p.set("rcx", 5)
    p.set("rflags", 2 | zero)
    wants = zero != 0 if opcode == LOOPE else zero == 0
    if prefix and p.conduct & Conduct.LOOP_TAKES_REPETITION:
        wants = zero != 0 if prefix.endswith("F3") else zero == 0

    assert p.run() == Exit.EXIT_HLT

    behind = at + len(prefix) // 2 + 2
    assert p.get("rip") == behind + (5 if wants else 1)
    assert p.get("rcx") & 0xFFFF == 4
