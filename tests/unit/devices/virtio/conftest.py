"""Machines with one device, which end with the test."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.devices.virtio.driver import Rig

from ringlet.devices.virtio.device import VirtioDevice

CODE_MAPS = 24
"""Mappings of code caches, two for each, with which the next test may begin."""
Failed = Callable[[Exception], None]
MakeRig = Callable[[Callable[[Failed], VirtioDevice]], Rig]


@pytest.fixture(autouse=True)
def _processors_are_freed() -> Iterator[None]:
    """Free the processors of tests: cycles keep them, and few code caches fit below 2 GiB."""
    yield
    if Path("/proc/self/maps").read_text().count("ringlet-code") > CODE_MAPS:
        gc.collect()


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    """Make machines; no thread of a device may have failed at the end of the test."""
    rigs: list[Rig] = []
    failures: list[Exception] = []

    def make(device: Callable[[Failed], VirtioDevice]) -> Rig:
        rigs.append(Rig(device(failures.append)))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.pci.close()
    assert not failures
