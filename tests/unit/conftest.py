"""Fixtures of several groups of unit tests."""

from __future__ import annotations

import pytest

from ringlet.direct.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Zygote:
    return Zygote()
