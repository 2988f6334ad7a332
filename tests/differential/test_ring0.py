"""Ring-0 programs: Ringlet against Unicorn, which is no truth; its known faults are listed here."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.differential.ring0 import CASES, Case, Result, compare, random_cases
from tests.differential.ring0_unicorn import UnicornRing0

RF = 1 << 16

# What Unicorn does otherwise than SDM vol. 2 and 3 say, by the difference it makes.
UNICORN_WRONG = {
    "RF is not set in what a fault pushes": "rflags",
}


@pytest.fixture(scope="module")
def ringlet() -> Iterator[object]:
    pytest.importorskip("ringlet.vcpu.processor")
    from tests.differential.engine_ringlet import RingletRing0
    runner = RingletRing0()
    yield runner
    runner.close()


def _without_rf(result: Result) -> Result:
    values = {n: v & ~RF if n == "rflags" else v for n, v in result.values.items()}
    return Result(result.end, values, result.memory, result.note)


@pytest.mark.parametrize("case", list(random_cases(seed=1, each=12)), ids=lambda c: c.name)
def test_ring0_case_is_equal(case: Case, ringlet: object) -> None:
    expected = _without_rf(UnicornRing0().run(case))
    found = _without_rf(ringlet.run(case))  # type: ignore[attr-defined]  # imported late
    assert compare(expected, found) == []


def test_every_kind_of_case_ends_in_one_of_the_ways_that_are_compared() -> None:
    ends = {UnicornRing0().run(make_case).end.split()[0] for make_case in random_cases(2, 2)}
    assert ends == {"hlt", "vector"}
    assert len(CASES) == 16
