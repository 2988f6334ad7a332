"""Every opcode of 16- and 32-bit code, defined or not: a part of `nightly --opcodes`."""
from __future__ import annotations

from itertools import islice

import pytest

from tests.differential.campaign import run_campaign
from tests.differential.native import NativeRunner
from tests.differential.opcodes import opcode_programs, unoffered, with_code

_UD, _BP = 6, 3


@pytest.mark.parametrize("bits", [16, 32])
def test_an_opcode_is_what_the_host_makes_of_it(bits: int, native: NativeRunner) -> None:
    from tests.differential.engine_ringlet import RingletRunner

    with RingletRunner() as engine:
        report = run_campaign(native, engine, islice(opcode_programs(bits), 7, None, 301))

    assert [d.text() for d in report.divergences.values()] == []
    assert report.vectors[_UD] > 300
    assert report.vectors[_BP] > 100


@pytest.mark.parametrize("bits", [16, 32])
def test_an_instruction_that_is_not_offered_is_undefined(bits: int) -> None:
    from tests.differential.engine_ringlet import RingletRunner

    with RingletRunner() as engine:
        codes = islice(unoffered(bits), 0, None, 9)
        outcomes = engine.run([with_code(code, bits) for code in codes])

    assert {outcome.vector for outcome in outcomes} == {_UD}
