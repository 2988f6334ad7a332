"""The parts that a user may add to a machine: shared directories and variables.

Each is written as on the command line, and checked where it is read.  Messages call an option by
the name that the user gave it (`called`).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from ringlet.disk_spec import DiskSpec
from ringlet.errors import ConfigError

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LONGEST_ENV_FILE: Final = 1 << 20
T = TypeVar("T")


_FORM: Final = "give HOST:GUEST, such as ./src:/mnt, perhaps with :ro or :delegated"
_OPTIONS: Final = "give ro, rw or delegated, or leave it out"
_PLACE: Final = "give one, such as /mnt"
_MOUNT_OPTIONS: Final = frozenset({"ro", "rw", "delegated"})
_RESERVED: Final = ("/", "/dev", "/run", "/var/run")
_RESERVED_WHOLLY: Final = ("/proc", "/sys", "/dev/pts", "/run/ringlet", "/var/run/ringlet")
"""Places that the guest's kernel, its init and Ringlet's agent fill; in the second, also below."""


@dataclass(frozen=True, slots=True)
class Mount:
    """The directory `source` of the host, which the guest has at `target`.

    With `delegated`, as Docker calls it, only the guest changes it: the guest keeps what it knows
    of it, and writes late.
    """

    source: Path
    target: str
    read_only: bool = False
    delegated: bool = False


def mount(text: str | Mount, called: str) -> Mount:
    """Return the share that `HOST:GUEST[:ro][:delegated]` describes.  Raises ConfigError.

    As for Docker, several options are separated by commas.
    """
    if isinstance(text, Mount):
        _require_free(text.target, f"{called} {text.source}:{text.target}")
        return text
    words = str(text).split(":")
    options = set(words.pop().split(",")) if len(words) > 2 else set()
    if unknown := sorted(options - _MOUNT_OPTIONS):
        raise ConfigError(f"{called} {text}: {unknown[0]!r} is no option of a share; {_OPTIONS}")
    if len(words) != 2 or not all(words):
        raise ConfigError(f"{called} {text}: not a directory and its place; {_FORM}")
    source, target = Path(words[0]).expanduser(), words[1]
    if not PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
        raise ConfigError(f"{called} {text}: the place in the guest is no absolute path; {_PLACE}")
    _require_free(target, f"{called} {text}")
    if not source.exists():
        raise ConfigError(f"{called} {text}: {source}: no such directory; make it first")
    if not source.is_dir():
        raise ConfigError(
            f"{called} {text}: {source}: is no directory, and files are not shared alone; share "
            "its directory, or copy the file into the running machine with ringlet cp"
        )
    return Mount(source.resolve(), target, "ro" in options, "delegated" in options)


def check_places(mounts: Iterable[Mount], called: str) -> None:
    """Refuse two shares at one place of the guest.  Raises ConfigError."""
    found: dict[PurePosixPath, Mount] = {}
    for share in mounts:
        place = _plain(share.target)
        if place in found:
            raise ConfigError(
                f"{called} {share.source}:{share.target}: the guest has {found[place].source} at "
                f"{place}; give another place"
            )
        found[place] = share


def check_sockets(path: Path, mounts: Iterable[Mount], called: str) -> None:
    """Refuse sockets of the host at `path` where a guest may change what is there.

    A guest that may put a file of its own beside them may put a link there, too, and so choose
    which sockets of the host it reaches.  Raises ConfigError.
    """
    absolute = path.absolute()
    names = [at for at in (absolute, *absolute.parents) if at.name != ".."]
    holders = [Path(os.path.realpath(at.parent)) for at in names]
    found = {known for at in holders for up in (at, *at.parents) if (known := _identity(up))}
    for share in mounts:
        if not share.read_only and _identity(share.source) in found:
            raise ConfigError(
                f"{called} {path}: the guest may write to {share.source}; give a path outside of "
                "it, or share the directory with :ro"
            )


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:  # it is not there, or out of reach
        return None
    return status.st_dev, status.st_ino


def _plain(place: str) -> PurePosixPath:
    """Return an absolute path of the guest, which `//` may begin, with one slash there."""
    return PurePosixPath("/", *PurePosixPath(place).parts[1:])


def _require_free(place: str, called: str) -> None:
    """Refuse a place that the guest needs itself.  Raises ConfigError."""
    path = _plain(place)
    own = next((p for p in (path, *path.parents) if str(p) in _RESERVED_WHOLLY), None)
    if str(path) in _RESERVED or own is not None:
        raise ConfigError(
            f"{called}: the guest itself needs {own or path}; give another place, such as /mnt"
        )


def variables(
    given: Mapping[str, str] | Iterable[str] | None,
    called: str,
    environ: Mapping[str, str] = os.environ,
) -> tuple[tuple[str, str], ...]:
    """Return the variables of a mapping, or of texts `NAME=VALUE` and `NAME`, the host's value.

    As for Docker, a `NAME` that the host does not have is left out.  Raises ConfigError.
    """
    found: dict[str, str] = {}
    texts = [given] if isinstance(given, str) else given or ()
    pairs = (
        ((name, True, value) for name, value in given.items())
        if isinstance(given, Mapping)
        else (str(text).partition("=") for text in texts)
    )
    for name, has_value, value in pairs:
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f"{called} {name!r}: not the name of a variable; give NAME=VALUE")
        if "\0" in str(value):
            raise ConfigError(f"{called} {name}: the value contains a zero byte")
        if has_value:
            found[name] = str(value)
        elif name in environ:
            found[name] = environ[name]
    return tuple(found.items())


def variables_of_file(path: Path, called: str) -> list[str]:
    """Return the lines of a file of variables without empty ones and comments.

    Raises ConfigError.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_ENV_FILE + 1).decode()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise ConfigError(f"{called} {path}: {why}") from None
    if len(text) > _LONGEST_ENV_FILE:
        raise ConfigError(f"{called} {path}: is larger than {_LONGEST_ENV_FILE >> 20} MiB")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def several(given: object, pair: str = "{}:{}") -> list[object]:
    """Return the items of a sequence; a mapping gives texts, one item gives itself."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [pair.format(key, value) for key, value in given.items()]
    if isinstance(given, str | Path | int | DiskSpec | Mount):
        return [given]
    if isinstance(given, Iterable):
        return list(given)
    return [given]
