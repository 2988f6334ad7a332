"""Random bytes as guest code: a short run of `python -m tests.fuzz.bytes`."""
from __future__ import annotations

import pytest

from tests.differential.program import State
from tests.fuzz.bytes import Guest, random_code, sample
from tests.fuzz.canary import MARK, Canaries, host_mappings, leaked
from tests.fuzz.strings import Task, run_isolated


def test_a_seed_means_one_sample_whatever_the_host_addresses_are() -> None:
    here, there = sample(5, [0x1000]), sample(5, [])
    assert (here.code, here.cpl, here.rflags) == (there.code, there.cpl, there.rflags)


def test_a_changed_canary_is_noticed_and_mended() -> None:
    import ctypes
    canaries = Canaries()
    at = canaries.addresses[0]
    ctypes.memset(at + 100, 0xAA, 1)
    assert canaries.changed() == [at + 100]
    assert canaries.changed() == []
    canaries.close()


def test_canaries_stand_against_the_edges_of_a_mapping() -> None:
    mapping = next(m for m in host_mappings() if m.name == "[heap]")
    canaries = Canaries([mapping])
    assert mapping.end in canaries.addresses
    canaries.close()


def test_a_canary_in_a_register_is_a_leak() -> None:
    assert leaked(State(gpr=(MARK << 32 | 7, *[0] * 15)))
    assert not leaked(State())


def test_random_code_is_of_every_length() -> None:
    import random
    lengths = {len(random_code(random.Random(i))) for i in range(300)}
    assert len(lengths) > 50


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [0, 1_000_000])
def test_random_bytes_leave_the_host_alone(seed: int) -> None:
    pytest.importorskip("ringlet.vcpu.processor")
    findings = run_isolated(Task(Guest, seed, 1500))
    assert findings.broken == []
    assert findings.count == 1500
