"""Sequences of operations by a guest do to a shared directory what they do to an ordinary one."""

import os
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ringlet.devices.backends.shares import FileServer, host
from ringlet.devices.backends.shares import protocol as fuse
from tests.unit.devices.shares.kernel import Entry, Kernel, Refused

Place = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """An operation on one place, and on another for those that have two."""

    what: str
    place: Place
    other: Place
    number: int


places = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)
WHAT = (
    "mkdir create write truncate chmod unlink rmdir rename exchange keep link symlink append"
    " reopen forget close restore"
).split()
steps = st.builds(Step, st.sampled_from(WHAT), places, places, st.integers(0, 9))


class Guest:
    """Does steps by requests, as a kernel does: it looks a name up only if it does not know it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kernel = Kernel(FileServer(root, read_only=False, trouble=print))
        self._open: dict[int, int] = {}
        self._known: dict[Place, int] = {}
        self._lookups: Counter[int] = Counter()

    def close(self) -> None:
        self._kernel.server.close()

    def _parent(self, place: Place) -> int:
        return self._node(place[:-1]) if place[1:] else fuse.ROOT_ID

    def _node(self, place: Place) -> int:
        if place not in self._known:
            self._learn(place, self._kernel.lookup(place[-1], self._parent(place)))
        return self._known[place]

    def _learn(self, place: Place, entry: Entry) -> None:
        self._known[place] = entry.node
        self._lookups[entry.node] += 1

    def _forget(self, place: Place) -> None:
        node = self._node(place)
        self._known = {other: n for other, n in self._known.items() if n != node}
        self._kernel.forget(node, self._lookups.pop(node))

    def _moved(self, old: Place, new: Place) -> None:
        length = len(old)
        below = [place for place in self._known if place[:length] == old]
        for place in below:
            self._known[new + place[length:]] = self._known.pop(place)

    def _rename(self, step: Step) -> None:
        old, new = step.place, step.other
        flags = RENAMES[step.what]
        self._kernel.rename(old[-1], new[-1], self._parent(old), self._parent(new), flags)
        if self._known.get(old, -1) == self._known.get(new, -2):
            return
        self._moved(new, ("aside",))
        self._moved(old, new)
        self._moved(("aside",), old if step.what == "exchange" else ("gone",))

    def step(self, step: Step) -> None:
        kernel, place, number = self._kernel, step.place, step.number
        match step.what:
            case "forget":
                self._forget(place)
            case "close":
                kernel.server._share.inodes.close_unused()
            case "restore":
                server = FileServer(self._root, read_only=False, trouble=print)
                server.restore(kernel.server.save())
                kernel.server = server
                self._known.clear()  # of two names of a file only one is saved
            case "mkdir":
                self._learn(place, kernel.mkdir(place[-1], self._parent(place), 0o700 | number))
            case "create":
                made, opened = kernel.create(
                    place[-1], os.O_RDWR | os.O_EXCL, 0o600 | number, self._parent(place)
                )
                self._learn(place, made)
                self._open[number] = opened
            case "reopen":
                self._open[number] = kernel.open(self._node(place), os.O_RDWR)
            case "write":
                if number in self._open:
                    kernel.write(self._open[number], number, b"w%d" % number)
            case "append":
                opened = kernel.open(self._node(place), os.O_WRONLY | os.O_APPEND)
                kernel.write(opened, 0, b"a%d" % number)
                kernel.release(opened)
            case "truncate":
                kernel.setattr(self._node(place), fuse.FATTR_SIZE, size=number)
            case "chmod":
                kernel.setattr(self._node(place), fuse.FATTR_MODE, mode=0o600 | number)
            case "unlink":
                kernel.unlink(place[-1], self._parent(place))
                self._known.pop(place, None)
            case "rmdir":
                kernel.rmdir(place[-1], self._parent(place))
                self._moved(place, ("gone",))
            case "symlink":
                self._learn(place, kernel.symlink("nowhere", place[-1], self._parent(place)))
            case "link":
                parent = self._parent(step.other)
                self._learn(step.other, kernel.link(self._node(place), step.other[-1], parent))
            case _:
                self._rename(step)


RENAMES = {"rename": 0, "keep": host.RENAME_NOREPLACE, "exchange": host.RENAME_EXCHANGE}


class Ordinary:
    """Does steps in an ordinary directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[int, int] = {}

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)

    def has_link(self, place: Place) -> bool:
        """Say whether a link leads to a place: the guest's kernel follows those by itself."""
        path = self._root.joinpath(*place)
        return any(p.is_symlink() for p in (path, *path.parents))

    def has_unnamed(self) -> bool:
        """Say whether an open file has not just the name with which its state would be saved."""
        return any(os.fstat(fd).st_nlink != 1 for fd in self._open.values())

    def _keep(self, number: int, fd: int) -> None:
        os.close(self._open.pop(number)) if number in self._open else None
        self._open[number] = fd

    def step(self, step: Step) -> None:
        path, number = self._root.joinpath(*step.place), step.number
        other = self._root.joinpath(*step.other)
        match step.what:
            case "forget" | "close" | "restore":
                pass
            case "mkdir":
                path.mkdir()
                path.chmod(0o700 | number)
            case "create":
                self._keep(number, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
                path.chmod(0o600 | number)
            case "reopen":
                self._keep(number, os.open(path, os.O_RDWR))
            case "write":
                if number in self._open:
                    os.pwrite(self._open[number], b"w%d" % number, number)
            case "append":
                with path.open("r+b") as file:
                    file.seek(0, os.SEEK_END)
                    file.write(b"a%d" % number)
            case "truncate":
                os.truncate(path, number)
            case "chmod":
                path.chmod(0o600 | number)
            case "unlink":
                path.unlink()
            case "rmdir":
                path.rmdir()
            case "symlink":
                path.symlink_to("nowhere")
            case "link":
                other.hardlink_to(path)
            case _:
                host.rename(-1, bytes(path), -1, bytes(other), RENAMES[step.what])


def outcome(step: Callable[[], None]) -> bool:
    """Do a step, and say whether it could be done."""
    try:
        step()
    except (Refused, OSError):
        return False
    return True


def tree(root: Path) -> list[object]:
    """Return all that can be seen of a directory: names, types, modes, links and contents."""
    first: dict[int, str] = {}
    seen: list[object] = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        same = first.setdefault(status.st_ino, name)
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        mode = status.st_mode
        seen.append((name, same, mode, content))
    return seen


def skipped(ordinary: Ordinary, step: Step) -> bool:
    """Say whether the guest's kernel would not pass the step on as it is."""
    if step.what == "restore":
        return ordinary.has_unnamed()
    changes_link = step.what in {"truncate", "chmod", "append", "reopen", "link"}
    places = [step.place if changes_link else step.place[:-1], step.other[:-1]]
    return any(ordinary.has_link(place) for place in places)


@settings(max_examples=150)
@given(st.lists(steps, min_size=10, max_size=80))
def test_guest_does_what_a_program_of_the_host_would(sequence: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as top:
        shared, plain = Path(top, "shared"), Path(top, "plain")
        shared.mkdir()
        plain.mkdir()
        guest, ordinary = Guest(shared), Ordinary(plain)
        try:
            for step in sequence:
                if skipped(ordinary, step):
                    continue
                if step.what == "forget" and not plain.joinpath(*step.place).exists():
                    continue
                done = outcome(lambda s=step: guest.step(s))  # type: ignore[misc]  # a closure
                assert done is outcome(lambda s=step: ordinary.step(s)), step  # type: ignore[misc]
            assert tree(shared) == tree(plain)
        finally:
            guest.close()
            ordinary.close()
