"""Makes an initial RAM disk that holds a whole guest: busybox, an init, and its command.

The RAM disk is not compressed, because unpacking it in the guest would take longer than copying it
on the host.
"""

import importlib.resources
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ringlet.errors import ConfigError, ImageError
from ringlet.images.busybox import applets
from ringlet.images.cpio import CpioWriter

_DIRECTORIES: Final = (
    "bin", "dev", "etc", "mnt", "proc", "ringlet", "run", "sbin", "sys", "usr", "usr/bin",
    "usr/sbin", "var", "var/log",
)  # fmt: skip
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shells": "/bin/sh\n",
    "etc/profile": "export PS1='\\u@\\h:\\w\\$ '\n",
}
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
_LARGEST_WINDOW: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell on the console, with the kind and size of its terminal."""

    term: str = "vt100"
    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its arguments as exact bytes; `ringlet.images.channel` has its streams."""

    argv: tuple[bytes, ...]
    term: str = "dumb"


@dataclass(frozen=True, slots=True)
class File:
    """A file that the guest finds below /run, and whether it is a program."""

    path: str
    content: bytes
    program: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system that replaces the RAM disk.

    `source` is a disk of the guest, such as /dev/vda, or the tag of a virtio-fs share, and `kind`
    the file system: "ext4", "virtiofs", or nothing for whatever is on the disk.  With `overlay` the
    root is only read, and what the guest writes stays in its memory.  With `boot` the root's own
    `init` becomes process 1; else only the task runs there.  `modules_disk` is the disk with all of
    the kernel's modules (`Modules.write_image`).
    """

    source: str = "/dev/vda"
    kind: str = "ext4"
    options: str = "rw"
    overlay: bool = False
    boot: bool = False
    init: str = "/sbin/init"
    modules_disk: str = ""


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that serves the host's requests: its bytes, and the device where they come from.

    It starts before the root's own init, or else beside the task; without a task, it is the task.
    """

    program: bytes
    device: str


@dataclass(frozen=True, slots=True)
class Extras:
    """What a guest has besides its root and its task.

    `modules` are loaded first; the RAM disk must have them (`Modules.boot_archive`).  `network` has
    an interface, its address with the prefix, the gateway and the name server, for a guest without
    an init of its own that would ask for them.
    """

    modules: tuple[str, ...] = ()
    agent: Agent | None = None
    files: tuple[File, ...] = ()
    network: tuple[str, str, str, str] | None = None


def make_initramfs(
    busybox: Path,
    task: Shell | Command | None,
    *,
    hostname: str = "debian",
    root: Root | None = None,
    extras: Extras | None = None,
) -> bytes:
    """Return the RAM disk's contents.  Raises ConfigError, and ImageError about busybox.

    Without a task there must be a root that boots, or an agent.  An archive of modules can stand
    before the contents.
    """
    extras = extras or Extras()
    if task is None and extras.agent is None and not (root is not None and root.boot):
        raise ConfigError("a guest needs a command, a shell, an agent or an init to run")
    archive = CpioWriter()
    for name in _DIRECTORIES:
        archive.directory(name)
    archive.directory("root", 0o700)
    archive.directory("tmp", 0o1777)
    # The kernel opens /dev/console for init before init can mount anything.
    archive.character_device("dev/console", 5, 1)
    for name, text in _FILES.items():
        archive.file(name, text.encode())
    archive.file("etc/hostname", hostname.encode() + b"\n")
    archive.file("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n".encode())
    _add_busybox(archive, busybox)
    archive.file("ringlet/settings", _settings(task, hostname, root, extras), 0o600)
    _add_files(archive, extras)
    if isinstance(task, Command):
        archive.file("ringlet/command", _positional(task.argv), 0o600)
    init = importlib.resources.files("ringlet.images").joinpath("init.sh")
    archive.file("init", init.read_bytes(), 0o755)
    return archive.contents()


def _add_busybox(archive: CpioWriter, busybox: Path) -> None:
    try:
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    except OSError as error:
        raise ImageError(f"{busybox}: cannot be read: {error.strerror}") from error
    for name in sorted(set(applets(busybox)) - {"bin/busybox"}):
        if str(PurePosixPath(name).parent) in _DIRECTORIES:
            archive.symlink(name, "/bin/busybox")


def _add_files(archive: CpioWriter, extras: Extras) -> None:
    """Add the files that init copies to /run."""
    files = list(extras.files)
    if extras.agent is not None:
        files.append(File("ringlet/agent", extras.agent.program, program=True))
    made: set[PurePosixPath] = set()
    for file in files:
        path = PurePosixPath("ringlet/run") / file.path
        if ".." in path.parts or not path.is_relative_to("ringlet/run"):
            raise ConfigError(f"{file.path!r} does not lie below /run")
        for above in [*reversed(path.parents)][2:]:
            if above not in made:
                archive.directory(str(above))
                made.add(above)
        archive.file(str(path), file.content, 0o755 if file.program else 0o644)


def _settings(
    task: Shell | Command | None, hostname: str, root: Root | None, extras: Extras
) -> bytes:
    if not _HOST_NAME.fullmatch(hostname):
        raise ConfigError(f"{hostname!r} is not a host name; use letters, digits, '-' and '.'")
    rows, columns = (task.rows, task.columns) if isinstance(task, Shell) else (0, 0)
    if not (0 <= rows <= _LARGEST_WINDOW and 0 <= columns <= _LARGEST_WINDOW):
        raise ConfigError(f"no terminal has {rows} rows and {columns} columns")
    lines = (
        b"hostname=" + _quoted(hostname.encode()),
        b"TERM=" + _quoted((task.term if task else "linux").encode(errors="surrogateescape")),
        b"rows=%d" % rows,
        b"columns=%d" % columns,
        *_more_settings(task, root, extras),
    )
    return b"\n".join(lines) + b"\n"


def _more_settings(
    task: Shell | Command | None, root: Root | None, extras: Extras
) -> Iterator[bytes]:
    given = root or Root(source="")
    agent = extras.agent.device if extras.agent is not None else ""
    for name, value in (
        ("shell", str(int(isinstance(task, Shell)))), ("root", given.source),
        ("root_type", given.kind), ("root_options", given.options),
        ("overlay", str(int(given.overlay))), ("boot", str(int(given.boot))),
        ("init", given.init), ("modules_disk", given.modules_disk),
        ("modules", " ".join(extras.modules)), ("network", " ".join(extras.network or ())),
        ("agent", agent),
    ):  # fmt: skip
        yield b"%b=%b" % (name.encode(), _quoted(os.fsencode(value)))


def _positional(argv: tuple[bytes, ...]) -> bytes:
    if not argv or not argv[0]:
        raise ConfigError("no command given to run in the guest")
    return b"set -- " + b" ".join(_quoted(argument) for argument in argv) + b"\n"


def _quoted(text: bytes) -> bytes:
    """Return `text` quoted so that a shell reads exactly its bytes, none of which may be zero."""
    if b"\0" in text:
        raise ConfigError("an argument for the guest contains a zero byte")
    return b"'" + text.replace(b"'", b"'\\''") + b"'"
