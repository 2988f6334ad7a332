"""Shows what a full disk of the host does to a guest's ext4: `python -m tests.guests.full_disk`.

A program in the guest writes 8 MiB to a file of a sparse disk for which the host has 4 MiB, and
does not flush them.  Then room is made.  In the first run writes that find no room fail at once, in
the second they wait.
"""

import functools
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import ringlet
from ringlet.control import peripherals
from ringlet.devices.virtio.block import Block
from tests.guests.failing import PATIENCE, fill, small_filesystem
from tests.guests.power_cut import tool

SIZE = 64 << 20
ROOM = 4 << 20
WRITE = (
    "mkdir -p /m; mount -t ext4 /dev/vda /m; head -c 8388608 /dev/urandom >/tmp/data; "
    "cp /tmp/data /m/data; echo cp: status $?; sync; echo sync: status $?"
)
LOOK = (
    "touch /m/later && echo the file system is writable; cmp /tmp/data /m/data && echo the file is "
    "whole; dmesg | grep -i 'abort\\|data loss\\|lost'; echo"
)


def said(machine: ringlet.Machine, script: str) -> str:
    """Return what a script of the guest's shell prints."""
    return str(machine.run(["sh", "-c", f"exec 2>&1; {script}"], timeout=PATIENCE).stdout)


def show(directory: Path, seconds: float) -> None:
    """Run the guest with writes that wait for so long."""
    disk = directory / "disk.img"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(SIZE)
    assert tool("mke2fs", "-q", "-F", "-t", "ext4", disk).returncode == 0
    filler = fill(directory, ROOM)
    device = functools.partial(Block, room_seconds=seconds)
    with (
        mock.patch.object(peripherals, "Block", device),
        ringlet.Machine("busybox", memory="128M", disks=[str(disk)]) as machine,
    ):
        machine.start().ready(PATIENCE)
        watch = subprocess.Popen(["sh", "-c", 'sleep 5; rm "$0"', filler])
        print(said(machine, WRITE), end="")
        watch.wait()
        print(said(machine, LOOK), end="", flush=True)
    print("e2fsck says", tool("e2fsck", "-fn", disk).returncode, flush=True)
    disk.unlink()


def main() -> None:
    """Show both."""
    with tempfile.TemporaryDirectory() as point, small_filesystem(Path(point)) as directory:
        for seconds in (0.0, 60.0):
            print(f"--- writes wait for {seconds:g} s", flush=True)
            show(directory, seconds)


if __name__ == "__main__":
    main()
