"""What the tests of Debian's guests need."""

from __future__ import annotations

import pytest

from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import CachedKernel, fetch_kernel


@pytest.fixture(scope="session")
def kernel() -> CachedKernel:
    """Debian's kernel, which the first test fetches where there is none."""
    try:
        find_busybox()
        return fetch_kernel()
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")
