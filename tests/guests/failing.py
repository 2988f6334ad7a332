"""A host that fails: a small file system, what a user was told, processes to kill."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

import ringlet

PATIENCE: Final = 90.0
RINGLET: Final = (sys.executable, "-m", "ringlet")
SMALL: Final = 16 << 20
"""Bytes of the small file system."""
_MOUNT: Final = 'mount -t tmpfs -o size=16m,mode=700 tmpfs "$0" && echo mounted && exec cat'


@contextlib.contextmanager
def small_filesystem(point: Path) -> Iterator[Path]:
    """Make a file system of SMALL bytes, in a namespace of its own; yield a path to it.

    An ordinary user may do that, but not in a container without user namespaces.
    """
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _MOUNT, point],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as keeper:  # fmt: skip
        assert keeper.stdout is not None
        assert keeper.stdin is not None
        if keeper.stdout.readline() != b"mounted\n":
            pytest.skip("a small file system needs user namespaces")
        yield Path(f"/proc/{keeper.pid}/root{point}")
        keeper.stdin.close()


def fill(directory: Path, left: int) -> Path:
    """Leave `left` bytes of a small file system; return the file that takes the rest."""
    filler = directory / "filler"
    size = shutil.disk_usage(directory).free - left
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return filler


class Told:
    """What Ringlet has said on standard error, as far as a test has taken it."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def lines(self) -> list[str]:
        """Return all lines since the start."""
        self._text += self._capture.readouterr().err
        return self._text.splitlines()

    def wait_for(self, words: str) -> str:
        """Return the line with `words`, once it is there."""
        end = time.monotonic() + PATIENCE
        while not (found := [line for line in self.lines() if words in line]):
            assert time.monotonic() < end, self._text
            time.sleep(0.01)
        return found[0]


def shell(machine: ringlet.Machine, script: str) -> str:
    """Return what a script of the guest's shell prints, errors too; its last command succeeds."""
    done = machine.run(["sh", "-c", f"exec 2>&1; {script}"], timeout=PATIENCE)
    assert done.exit_code == 0, done.stdout
    return str(done.stdout)


def descendants(named: Callable[[str], bool]) -> list[int]:
    """Return the processes below this one whose names are `named`."""
    found = []
    for child in _children(os.getpid()):
        with contextlib.suppress(OSError):
            if named(Path(f"/proc/{child}/comm").read_text().strip()):
                found.append(child)
    return found


def _children(process: int) -> list[int]:
    below: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                below += [int(child), *_children(int(child))]
    return below
