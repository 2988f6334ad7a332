"""Debian as a guest of tests, which are skipped where it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

import ringlet

PATIENCE = 360
"""In seconds; the first of them fetches the kernel and builds the image."""


@contextmanager
def started_debian(env: Mapping[str, str] | None = None) -> Iterator[ringlet.Machine]:
    """A machine with Debian, which takes commands."""
    with ringlet.Machine("debian", memory="512M", env=env or {}) as machine:
        try:
            machine.start()
        except ringlet.ImageError as error:
            pytest.skip(f"no Debian here: {error}")
        yield machine.ready(PATIENCE)
