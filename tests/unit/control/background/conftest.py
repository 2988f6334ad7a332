"""A directory for machines, and a machine in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.control.background.client import Attached
from tests.unit.control.background.machine import running


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    directory.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture
def machine(runtime: Path) -> Iterator[Attached]:
    with running(runtime, "box") as machine:
        yield machine
