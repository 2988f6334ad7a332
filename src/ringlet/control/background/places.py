"""The directory of each machine with a name, by which other processes find it.

    $XDG_RUNTIME_DIR/ringlet/machines/NAME/
        lock          locked by the machine's process as long as it lives
        machine.json  what the machine is, and when its guest was ready
        end.json      how it ended, unless its process was killed
        socket        where it is reached
        console.log   what its guest has printed, with console.log.1 before it
        errors.log    what Ringlet said

All directories are this user's alone.  A directory gets its name when it is locked, by one rename,
so that a name has one owner.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringlet.control.background.names import check_name
from ringlet.errors import ConfigError, HostError

SOCKET: Final = "socket"
ERRORS: Final = "errors.log"
_LOCK: Final = "lock"
_MACHINE: Final = "machine.json"
_END: Final = "end.json"
_NEW: Final = ".new-"
_LONGEST: Final = 1 << 20
_ABANDONED_S: Final = 60
_FLOCK: Final = struct.Struct("hhqqi4x")
"""struct flock of x86-64 Linux: type, whence, start, length, process."""


def run_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of all machines, which is made.  Raises HostError."""
    given = environ.get("XDG_RUNTIME_DIR", "")
    base = Path(tempfile.gettempdir()) / f"ringlet-run-{os.geteuid()}"
    if given.startswith("/") and _is_private(Path(given)):
        base = Path(given) / "ringlet"
    try:
        for directory in (base, base / "machines"):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(0o700)
            # Others may write the directory for temporary files.
            if not _is_private(directory):
                raise HostError(
                    f"{directory} is not a directory of this user alone; remove it, or set "
                    "XDG_RUNTIME_DIR to such a directory"
                )
    except OSError as error:
        raise HostError(
            f"{base}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of this user"
        ) from None
    return base / "machines"


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return mine and not status.st_mode & 0o077


@dataclass(frozen=True, slots=True)
class Found:
    """A machine with a name, as its directory says; times are in seconds since 1970.

    `state` is "starting", "running", "ended" or "killed", and `status` its exit status once it has
    ended.  `message` says why it ended, if that is to be told.
    """

    name: str
    directory: Path
    state: str
    guest: str = ""
    memory: int = 0
    ports: tuple[str, ...] = ()
    pid: int = 0
    created: float = 0.0
    ended: float = 0.0
    status: int | None = None
    message: str = ""
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    user: str = ""

    @property
    def alive(self) -> bool:
        """Whether its process lived when it was looked at."""
        return self.state in ("starting", "running")


class Place:
    """The directory of the machine that this process runs, from `claim` to `end`.

    With `remove`, nothing remains of it.  Other attributes are those of `Found`.
    """

    def __init__(self, name: str, directory: Path, lock: int, about: dict[str, Any]) -> None:
        self.name = name
        self.directory = directory
        self._lock = lock
        self._about = about

    @classmethod
    def claim(cls, name: str, about: Mapping[str, Any], *, remove: bool = False) -> "Place":
        """Take the name.  Raises ConfigError if a machine has it, and HostError."""
        require_free(name)
        parent = run_directory()
        directory = parent
        try:
            directory = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = cls(name, directory, lock, {
                **about, "version": 1, "pid": os.getpid(), "created": time.time(),
                "remove": remove,
            })  # fmt: skip
            place._write(_MACHINE, place._about)
        except OSError as error:
            if directory != parent:
                shutil.rmtree(directory, ignore_errors=True)
            raise HostError(f"{parent}: {error.strerror}; set XDG_RUNTIME_DIR") from None
        try:
            directory.rename(parent / name)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)
            require_free(name)
            raise HostError(f"{parent / name}: cannot be made; remove it") from None
        place.directory = parent / name
        return place

    def update(self, **about: Any) -> None:
        """Tell others more of the machine."""
        self._about.update(about)
        with contextlib.suppress(OSError):  # no room; what was told before stays
            self._write(_MACHINE, self._about)

    def up(self) -> None:
        """Tell others that the guest is ready."""
        self.update(up=time.time())

    def end(self, status: int, message: str = "") -> None:
        """Leave the directory with this end, or remove it."""
        if self._about["remove"]:
            _discard(self.directory)
        else:
            with contextlib.suppress(OSError):  # no room: it looks as if it was killed
                self._write(_END, {"status": status, "message": message, "ended": time.time()})
            with contextlib.suppress(OSError):
                (self.directory / SOCKET).unlink()
        os.close(self._lock)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        new = self.directory / f".{name}"
        with open(new, "w", opener=_private) as file:
            file.write(json.dumps(content))
        new.replace(self.directory / name)


def machines() -> list[Found]:
    """Return all machines with names, the oldest first; remove what dead ones leave by mistake."""
    return sorted(_all(), key=lambda found: (found.created, found.name))


def _all() -> Iterator[Found]:
    for directory in run_directory().iterdir():
        if directory.name.startswith(_NEW):
            _sweep(directory)
        elif (found := _look(directory)) is not None:
            yield found


def find(name: str) -> Found:
    """Return the machine with this name.  Raises ConfigError if there is none."""
    check_name(name)
    found = _look(run_directory() / name)
    if found is None:
        raise ConfigError(f"{name}: there is no such machine; ringlet ps -a lists all")
    return found


def require_free(name: str) -> None:
    """Raise ConfigError if a machine has this name, or had it, or if it can be no name."""
    check_name(name)
    found = _look(run_directory() / name)
    if found is None:
        return
    if found.alive:
        raise ConfigError(
            f"{name}: a machine with this name runs; give another --name, or ringlet rm -f {name}"
        )
    raise ConfigError(
        f"{name}: a machine that has ended has this name; ringlet rm {name} removes what is left"
    )


def remove(found: Found) -> None:
    """Remove what is left of a machine that has ended."""
    _discard(found.directory)


def _discard(directory: Path) -> None:
    """Remove a machine's directory, of which others see all or nothing.

    Its name is free at once.  What a process leaves that is killed meanwhile is swept later.
    """
    gone = directory.parent / f"{_NEW}gone-{os.getpid()}-{time.monotonic_ns()}"
    try:
        directory.rename(gone)
    except FileNotFoundError:  # another process was quicker
        return
    except OSError:
        gone = directory
    shutil.rmtree(gone, ignore_errors=True)


def holder(directory: Path) -> int:
    """Return the process of the machine in `directory`; 0 if there is none."""
    try:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    finally:
        os.close(lock)
    return 0 if kind == fcntl.F_UNLCK else int(pid) or -1


def _look(directory: Path) -> Found | None:
    pid = holder(directory)
    about = _read(directory / _MACHINE)
    if about is None:
        if pid or not directory.is_dir():
            return None
        return Found(directory.name, directory, "killed")
    end = {} if pid else _read(directory / _END) or {}
    if not pid and about.get("remove") is True:
        _discard(directory)  # it was killed
        return None
    running = "running" if "up" in about else "starting"
    return Found(
        directory.name, directory, running if pid else "ended" if end else "killed",
        _text(about, "guest"), _number(about, "memory"), _texts(about, "ports"), pid,
        _number(about, "created"), _number(end, "ended"),
        int(_number(end, "status")) if end else None, _text(end, "message"),
        _texts(about, "command"),
        tuple((v.partition("=")[0], v.partition("=")[2]) for v in _texts(about, "env")),
        _text(about, "cwd"), _text(about, "user"),
    )  # fmt: skip


def _sweep(directory: Path) -> None:
    """Remove a directory whose process was killed before it had its name."""
    with contextlib.suppress(OSError):
        if not holder(directory) and time.time() - directory.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(directory, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file of a machine says; None if it is damaged or absent."""
    try:
        with open(path, "rb", opener=_not_followed) as file:
            content = json.loads(file.read(_LONGEST))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _not_followed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def _text(about: Mapping[str, Any], key: str) -> str:
    value = about.get(key, "")
    return value if isinstance(value, str) else ""


def _texts(about: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = about.get(key, [])
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _number(about: Mapping[str, Any], key: str) -> Any:
    value = about.get(key, 0)
    return value if isinstance(value, int | float) else 0
