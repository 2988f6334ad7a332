"""The agent of the tests here."""

from collections.abc import Iterator

import pytest

from ringlet.control.agent import Agent
from tests.unit.control.agent.native import native_agent


@pytest.fixture
def agent() -> Iterator[Agent]:
    with native_agent() as agent:
        yield agent
