"""Ringlet in a guest of Ringlet: the README's line about it."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringlet
from ringlet.errors import ImageError
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import CachedKernel
from ringlet.images.store import default_root

PATIENCE = 240
"""Seconds for a run in the guest, on a busy host; a tenth is usual."""
SITE = "/site"
CACHE = "/var/cache/nested"

# Debian's image with Python is built by the first test, where there is none.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def outer(kernel: CachedKernel) -> Iterator[ringlet.Machine]:
    """A guest that has this Ringlet, what it has fetched, and no network."""
    places = {str(Path(ringlet.__file__).parents[1]), sysconfig.get_path("platlib")}
    shares = {place: f"{SITE}/{number}:ro" for number, place in enumerate(sorted(places))}
    for kind in ("images", "kernels", "modules"):
        shares[str(default_root() / kind)] = f"{CACHE}/ringlet/{kind}:ro"
    try:
        # One machine for the image of the guests, which the share must have when it begins.
        with ringlet.Machine("debian", memory="256M") as machine:
            machine.start()
        with ringlet.Machine("debian:python3", memory="2G", mounts=shares) as machine:
            machine.start()
            machine.files.copy_in(find_busybox(), "/bin/busybox")
            yield machine
    except ImageError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(f"no packages of Debian here: {error}")


def ran(outer: ringlet.Machine, *arguments: str) -> ringlet.Result[str]:
    """Run `ringlet run` with these arguments in the guest."""
    environment = {
        "PYTHONPATH": f"{SITE}/0:{SITE}/1", "XDG_CACHE_HOME": CACHE, "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = ["python3", "-m", "ringlet", "run", *arguments]
    return outer.run(command, env=environment, timeout=PATIENCE)


@pytest.mark.parametrize("guest", ["busybox", "debian"])
def test_a_guest_runs_a_guest(outer: ringlet.Machine, kernel: CachedKernel, guest: str) -> None:
    script = "test -e /etc/debian_version && echo debian || echo busybox; uname -r; exit 7"

    done = ran(outer, guest, "sh", "-c", script)

    assert (done.exit_code, done.stderr) == (7, "")
    assert done.stdout.split() == [guest, kernel.release]
