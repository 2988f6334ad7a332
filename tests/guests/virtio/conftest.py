"""Debian's kernels with their modules, for guests with virtio devices."""

from __future__ import annotations

import pytest

from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from tests.guests.virtio.guest import Guest, modules

PACKAGES = ("linux-image-cloud-amd64/bookworm", "linux-image-cloud-amd64/trixie")


@pytest.fixture(scope="module", params=PACKAGES)
def with_modules(request: pytest.FixtureRequest) -> Guest:
    """A kernel with its modules."""
    try:
        find_busybox()
        kernel = fetch_kernel(request.param)
    except ImageError as error:
        pytest.skip(f"no Debian kernel here: {error}")
    return Guest(kernel, modules(kernel))


@pytest.fixture
def guest(with_modules: Guest) -> Guest:
    """The kernel for one boot."""
    return Guest(with_modules.kernel, with_modules.modules)
