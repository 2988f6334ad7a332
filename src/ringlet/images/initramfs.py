"""Makes an initial RAM disk that holds a whole guest: busybox, an init, and its command.

The RAM disk is not compressed, because unpacking it in the guest would take longer than copying it
on the host.
"""

import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

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
class Serve:
    """Nothing but what the agent is asked for; the guest ends with the agent."""

    term: str = "dumb"


@dataclass(frozen=True, slots=True)
class Share:
    """A directory that the host shares under a virtio-fs tag, and its place in the guest."""

    tag: str
    place: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """What DHCP would tell the guest: its address with the prefix, and those of others."""

    address: str
    gateway: str
    dns: tuple[str, ...]
    mtu: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a guest has besides its root.

    `modules` are loaded first; the RAM disk must have them (`Modules.boot_archive`).  `agent` is
    the agent's program; the guest then needs a virtio-console port of its name.  `window` has the
    rows and columns of the console, if they are known and there is no Shell, which has its own.
    """

    modules: tuple[str, ...] = ()
    shares: tuple[Share, ...] = ()
    address: Address | None = None
    agent: bytes = b""
    window: tuple[int, int] = (0, 0)


NOTHING: Final = Surroundings()
Task: TypeAlias = Shell | Command | Serve


@dataclass(frozen=True, slots=True)
class File:
    """A file that the guest finds below /run, and whether it is a program."""

    path: str
    content: bytes
    program: bool = False


@dataclass(frozen=True, slots=True)
class Root:
    """The root file system that replaces the RAM disk.

    `source` is a disk of the guest, such as /dev/vda, or the tag of a virtio-fs share.  With
    `overlay` the root is only read, and what the guest writes stays in its memory.  With `boot` the
    root's own `init` becomes process 1; else the task runs there and nothing else.  `modules` are
    loaded before; the RAM disk must have them (`Modules.boot_archive`).  `modules_disk` is the disk
    with all of the kernel's modules (`Modules.write_image`).
    """

    source: str = "/dev/vda"
    kind: str = "ext4"
    options: str = "rw"
    overlay: bool = False
    boot: bool = False
    init: str = "/sbin/init"
    modules: tuple[str, ...] = ("virtio_pci", "virtio_blk", "ext4")
    modules_disk: str = ""
    files: tuple[File, ...] = ()


def make_initramfs(
    busybox: Path,
    task: Task | None,
    *,
    hostname: str = "debian",
    root: Root | None = None,
    around: Surroundings = NOTHING,
    program: Path | None = None,
) -> bytes:
    """Return the RAM disk's contents.  Raises ConfigError, and ImageError about busybox.

    Without a task, `root` must boot.  An archive of modules can stand before the contents.
    `program` is the busybox of a guest that cannot run the host's, whose applets it has.
    """
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
    _add_busybox(archive, busybox, program or busybox)
    archive.file("ringlet/settings", _settings(task, hostname, root, around), 0o600)
    if around.shares:
        archive.file("ringlet/shares", b"".join(map(_share, around.shares)), 0o600)
    if around.agent:
        archive.file("ringlet/agent", around.agent, 0o755)
    for file in root.files if root is not None else ():
        _add_file(archive, file)
    if isinstance(task, Command):
        archive.file("ringlet/command", _positional(task.argv), 0o600)
    init = importlib.resources.files("ringlet.images").joinpath("init.sh")
    archive.file("init", init.read_bytes(), 0o755)
    return archive.contents()


def _add_busybox(archive: CpioWriter, busybox: Path, program: Path) -> None:
    try:
        archive.file("bin/busybox", program.read_bytes(), 0o755)
    except OSError as error:
        raise ImageError(f"{program}: cannot be read: {error.strerror}") from error
    for name in sorted(set(applets(busybox)) - {"bin/busybox"}):
        if str(PurePosixPath(name).parent) in _DIRECTORIES:
            archive.symlink(name, "/bin/busybox")


def _add_file(archive: CpioWriter, file: File) -> None:
    """Add a file that init copies to /run."""
    path = PurePosixPath("ringlet/run") / file.path
    for above in reversed(path.parents[:-2]):
        archive.directory(str(above))
    archive.file(str(path), file.content, 0o755 if file.program else 0o644)


def _settings(task: Task | None, hostname: str, root: Root | None, around: Surroundings) -> bytes:
    if not _HOST_NAME.fullmatch(hostname):
        raise ConfigError(f"{hostname!r} is not a host name; use letters, digits, '-' and '.'")
    rows, columns = (task.rows, task.columns) if isinstance(task, Shell) else around.window
    if not (0 <= rows <= _LARGEST_WINDOW and 0 <= columns <= _LARGEST_WINDOW):
        raise ConfigError(f"no terminal has {rows} rows and {columns} columns")
    address = around.address
    settings = {
        "hostname": hostname,
        "task": type(task).__name__.lower() if task is not None else "",
        "TERM": task.term if task is not None else "linux",
        "rows": str(rows),
        "columns": str(columns),
        "root": "",
        "boot": "",
        "address": address.address if address is not None else "",
        "gateway": address.gateway if address is not None else "",
        "dns": " ".join(address.dns) if address is not None else "",
        "mtu": str(address.mtu) if address is not None else "",
    }
    modules = around.modules
    if root is not None:
        modules = (*root.modules, *modules)
        settings |= {
            "root": root.source, "root_type": root.kind, "root_options": root.options,
            "overlay": str(int(root.overlay)), "boot": str(int(root.boot)), "init": root.init,
            "modules_disk": root.modules_disk,
        }  # fmt: skip
    settings["modules"] = " ".join(modules)
    return b"".join(
        b"%b=%b\n" % (name.encode(), _quoted(value.encode(errors="surrogateescape")))
        for name, value in settings.items()
    )


def _share(share: Share) -> bytes:
    place = os.fsencode(share.place)
    if b"\n" in place:
        raise ConfigError(f"{share.place!r}: a shared directory's place has no line break")
    return b"%b %b %b\n" % (share.tag.encode(), b"ro" if share.read_only else b"rw", place)


def _positional(argv: tuple[bytes, ...]) -> bytes:
    if not argv or not argv[0]:
        raise ConfigError("no command given to run in the guest")
    return b"set -- " + b" ".join(_quoted(argument) for argument in argv) + b"\n"


def _quoted(text: bytes) -> bytes:
    """Return `text` quoted so that a shell reads exactly its bytes, none of which may be zero."""
    if b"\0" in text:
        raise ConfigError("an argument for the guest contains a zero byte")
    return b"'" + text.replace(b"'", b"'\\''") + b"'"
