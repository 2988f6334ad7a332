"""A directory of the host, its server, and a guest's kernel that has mounted it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.devices.backends.shares import FileServer
from tests.unit.devices.shares.kernel import Kernel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shared = tmp_path / "shared"
    shared.mkdir()
    return shared


@pytest.fixture
def told() -> list[str]:
    """What the user was told."""
    return []


@pytest.fixture
def server(root: Path, told: list[str]) -> Iterator[FileServer]:
    served = FileServer(root, read_only=False, trouble=told.append)
    yield served
    served.close()


@pytest.fixture
def guest(server: FileServer) -> Kernel:
    return Kernel(server)


@pytest.fixture
def reader(root: Path, told: list[str]) -> Iterator[Kernel]:
    """A guest that has the same directory read-only."""
    served = FileServer(root, read_only=True, trouble=told.append)
    yield Kernel(served)
    served.close()
