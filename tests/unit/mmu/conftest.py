"""Fixtures of the virtual MMU's tests."""

from __future__ import annotations

import pytest

from tests.unit.mmu.guest import Guest


@pytest.fixture
def guest() -> Guest:
    return Guest()
