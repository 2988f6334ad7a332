"""Hostile 16- and 32-bit code: a short run of its campaign, and what its canaries notice."""

from __future__ import annotations

import ctypes

import pytest

from tests.fuzz.narrow_bytes import KINDS, Guest, sample
from tests.fuzz.narrow_steps import Steps
from tests.fuzz.strings import Task, run_isolated
from tests.fuzz.surroundings import GIB, Surroundings
from tests.fuzz.victim import Victim


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_means_one_sample(kind: str) -> None:
    assert sample(kind, 40) == sample(kind, 40)
    assert sample(kind, 40)[0] != sample(kind, 41)[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_code_leaves_the_host_alone(kind: str) -> None:
    findings = run_isolated(Task(Guest, 3_000_000, 700, kind))

    assert findings.broken == []
    assert findings.count == 700
    assert findings.reached["EXIT_HLT"] > 300


def test_an_access_beside_a_window_is_noticed() -> None:
    victim = Victim(ram_size=2 << 20)
    around = Surroundings(victim.arena)
    before = around.touched()
    ctypes.string_at(around.windows[5] + 30 * GIB, 1)

    assert (before, around.touched(), around.touched()) == (False, True, False)
    around.close()
    victim.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_fragments_do_what_single_steps_do(kind: str) -> None:
    findings = run_isolated(Task(Steps, 3_000_000, 80, kind))

    assert findings.broken == []
    assert findings.reached["compared"] > 15
