"""What Debian with systemd asks of the machine beside its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ringlet
from tests.guests.debian import started_debian

PATIENCE = 120
MIB = 1 << 20
# The first test fetches the kernel and builds Debian, where there is none.
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("kernel")]


@pytest.fixture(scope="module")
def debian() -> Iterator[ringlet.Machine]:
    with started_debian() as machine:
        yield machine


def test_alarm_of_the_clock_ends_the_guests_sleep(debian: ringlet.Machine) -> None:
    began = time.monotonic()
    done = debian.run("rtcwake -m freeze -s 2", timeout=PATIENCE)

    assert done.exit_code == 0
    assert "wakeup from" in done.stdout
    assert time.monotonic() - began >= 1  # the clock has whole seconds


def test_removed_files_leave_the_hosts_disk(debian: ringlet.Machine) -> None:
    debian.run("head -c 200M /dev/urandom >/large; sync", check=True, timeout=PATIENCE)
    with_it = room_of_snapshots()
    debian.run("rm /large; sync", check=True, timeout=PATIENCE)

    # ext4 tells the disk once its journal has the change.
    end = time.monotonic() + PATIENCE
    while with_it - room_of_snapshots() < 150 * MIB and time.monotonic() < end:
        debian.run("sync")
        time.sleep(0.5)
    assert with_it - room_of_snapshots() >= 150 * MIB


def room_of_snapshots() -> int:
    """Return the bytes that files of this process take that have no name any more."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            status = path.stat()
        except OSError:  # closed meanwhile
            continue
        if not status.st_nlink:
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())
