"""The host processor and the engine, one of each for a session's tests."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.differential.engine import Engine
from tests.differential.native import NativeRunner


@pytest.fixture(scope="session")
def native() -> Iterator[NativeRunner]:
    with NativeRunner() as runner:
        yield runner


@pytest.fixture(scope="session")
def ringlet() -> Iterator[Engine]:
    pytest.importorskip("ringlet.vcpu.processor")
    from tests.differential.engine_ringlet import RingletRunner
    with RingletRunner() as runner:
        yield runner


@pytest.fixture(scope="session")
def ringlet_exact() -> Iterator[Engine]:
    from tests.differential.engine_ringlet import RingletRunner
    with RingletRunner(exact=True) as runner:
        yield runner
