"""What the tests of Debian's guests need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import CachedKernel, fetch_kernel
from tests.guests.failing import Told, small_filesystem


@pytest.fixture(scope="session")
def kernel() -> CachedKernel:
    """Debian's kernel, which the first test fetches where there is none."""
    try:
        find_busybox()
        return fetch_kernel()
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Give a small file system of the host."""
    point = tmp_path / "small"
    point.mkdir()
    with small_filesystem(point) as path:
        yield path


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Give what Ringlet says on standard error."""
    return Told(capfd)
