"""Hostile programs: a short run of `python -m tests.attack`."""

from __future__ import annotations

import pytest

from tests.attack.campaign import Findings, Task, run_isolated
from tests.attack.programs import R12, attack

DISTANCES = [3 << 39, -5 << 38]


def test_a_seed_means_one_program() -> None:
    assert attack(5, DISTANCES) == attack(5, DISTANCES)


def test_steps_are_those_of_the_passes_that_were_made() -> None:
    one = next(a for a in (attack(seed, DISTANCES) for seed in range(99)) if a.registers[R12] > 9)

    assert one.steps(one.registers[R12]) == one.length
    assert one.steps(one.registers[R12] - 7) == 7 * one.length
    assert one.steps(-1 % (1 << 64)) == one.length  # R12 was overwritten


def test_findings_add_up() -> None:
    total = Findings(1, 10)

    total.add(Findings(2, 20, broken=["one"]))

    assert (total.programs, total.steps, total.broken) == (3, 30, ["one"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("exact", [False, True])
def test_the_host_withstands(exact: bool) -> None:
    pytest.importorskip("ringlet.vcpu.processor")
    found = run_isolated(Task(10_000, 100, exact))

    assert found.broken == []
    assert found.programs == 100
    assert found.steps > 1_000_000
