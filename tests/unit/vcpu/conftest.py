"""Fixtures: a virtual processor at CPL 0 and one at CPL 3."""

import pytest

from tests.unit.vcpu.bench import Bench


@pytest.fixture
def kernel() -> Bench:
    """In 64-bit code at CPL 0."""
    return Bench(0)


@pytest.fixture
def user() -> Bench:
    """In 64-bit code at CPL 3."""
    return Bench(3)
