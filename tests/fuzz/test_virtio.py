"""Hostile drivers and random accesses to PCI: short runs of `tests.fuzz`."""
from __future__ import annotations

import pytest

from tests.fuzz import layouts, pci
from tests.fuzz.samples import Task, run_isolated
from tests.fuzz.virtio import run_sample
from tests.fuzz.virtio_devices import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_driver_breaks_its_device_at_most(kind: str) -> None:
    findings = run_isolated(Task(run_sample, 7_000_000, 12, kind))
    assert findings.broken == []
    assert findings.count == 12
    assert findings.reached[f"{kind} notifications"] > 12


@pytest.mark.parametrize("seed", range(5))
def test_random_accesses_to_pci(seed: int) -> None:
    assert pci.walk(seed) == []


@pytest.mark.parametrize("seed", range(3))
def test_layouts_of_bars_and_messages(seed: int) -> None:
    reached, broken = layouts.run_sample(seed)
    assert broken == []
    assert reached["doorbells"] > 0
    assert reached["decoded"] > 0
