"""The parts that a user may add to a machine: disks, directories, ports, a network, variables.

Each is written as on the command line, and checked where it is read.  Messages call an option by
the name that the user gave it (`called`).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from ringlet import config
from ringlet.errors import ConfigError

_PORT_END: Final = 1 << 16
_ADDRESS: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_LONGEST_ENV_FILE: Final = 1 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Disk:
    """The file of a disk image.  With `snapshot`, the guest's changes are dropped at the end."""

    path: Path
    read_only: bool = False
    snapshot: bool = False


@dataclass(frozen=True, slots=True)
class Mount:
    """The directory `source` of the host, which the guest has at `target`."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """The port `host` at `address` of the host, which leads to the port `guest` of the guest."""

    host: int
    guest: int
    address: str = "127.0.0.1"
    udp: bool = False


@dataclass(frozen=True, slots=True)
class Net:
    """The guest's network: "none", "user" (NAT), or "tap" with the name of an interface."""

    kind: str = "none"
    interface: str = ""


NO_NET: Final = Net()


def disk(text: str | Path | Disk, called: str) -> Disk:
    """Return the disk that `FILE[,ro|,snapshot]` describes.  Raises ConfigError."""
    if isinstance(text, Disk):
        return text
    path, *words = str(text).split(",")
    while words and words[0] not in {"ro", "snapshot"} and "=" not in words[0]:
        path += "," + words.pop(0)  # the comma is a part of the file's name
    for word in words:
        if word not in {"ro", "snapshot"}:
            raise ConfigError(f"{called} {text}: {word} is not ro or snapshot; give FILE,ro")
    if not path:
        raise ConfigError(f"{called} {text}: give the file of a disk image")
    found = Path(path)
    if not found.exists():
        raise ConfigError(f"{called} {text}: {path}: no such file")
    if found.is_dir():
        raise ConfigError(f"{called} {text}: is a directory; share it with {config.MOUNTS.flag}")
    return Disk(found, "ro" in words, "snapshot" in words)


def mount(text: str | Mount, called: str) -> Mount:
    """Return the share that `HOST:GUEST[:ro]` describes.  Raises ConfigError."""
    if isinstance(text, Mount):
        return text
    example = "give HOST:GUEST, such as ./src:/mnt, or HOST:GUEST:ro"
    words = str(text).split(":")
    read_only = len(words) > 2 and words[-1] in {"ro", "rw"} and words.pop() == "ro"
    if len(words) != 2 or not all(words):
        raise ConfigError(f"{called} {text}: not a directory and its place; {example}")
    source, target = Path(words[0]).expanduser(), words[1]
    if not PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
        raise ConfigError(f"{called} {text}: the place in the guest is no absolute path; {example}")
    if not source.is_dir():
        what = "is no directory" if source.exists() else "no such directory"
        raise ConfigError(f"{called} {text}: {source}: {what}; {example}")
    return Mount(source.resolve(), target, read_only)


def port(text: str | int | Port, called: str) -> Port:
    """Return the forward that `[ADDRESS:]HOST:GUEST[/udp]` describes.  Raises ConfigError."""
    if isinstance(text, Port):
        return text
    words, slash, protocol = str(text).partition("/")
    address, guest = "", ""
    rest, colon, guest = words.rpartition(":")
    address, _, host = rest.rpartition(":")
    wrong = f"{called} {text}: not a forward; give HOST:GUEST, such as 8080:80, or HOST:GUEST/udp"
    if not colon or (slash and protocol not in {"tcp", "udp"}):
        raise ConfigError(wrong)
    if address and not _ADDRESS.fullmatch(address):
        raise ConfigError(f"{called} {text}: {address} is not an address, such as 127.0.0.1")
    if not all(number.isascii() and number.isdigit() for number in (host, guest)):
        raise ConfigError(wrong)
    if not int(host) < _PORT_END or not 0 < int(guest) < _PORT_END:
        raise ConfigError(f"{called} {text}: a port is a number from 1 to {_PORT_END - 1}")
    return Port(int(host), int(guest), address.strip("[]") or "127.0.0.1", protocol == "udp")


def net(text: str | Net, called: str) -> Net:
    """Return the network that `none`, `user` or `tap:NAME` names.  Raises ConfigError."""
    if isinstance(text, Net):
        return text
    kind, _, interface = text.partition(":")
    if kind == "tap" and _INTERFACE.fullmatch(interface):
        return Net(kind, interface)
    if text in {"none", "user"}:
        return Net(text)
    raise ConfigError(f"{called} {text}: give none, user or tap:NAME")


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
    if isinstance(given, str | Path | int | Disk | Mount | Port):
        return [given]
    if isinstance(given, Iterable):
        return list(given)
    return [given]
