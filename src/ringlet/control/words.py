"""Finds out what a user's word for a guest means: a name, an image, a kernel's or a disk's file."""

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError, RingletError
from ringlet.images.catalog import Images
from ringlet.images.names import is_archive
from ringlet.machine import flat_image, multiboot, multiboot2

BUSYBOX: Final = "busybox"
NAMES: Final = (BUSYBOX, "debian", "debian:python3")
"""The guests that have a name."""

DISK_SUFFIXES: Final = (".qcow2", ".img", ".raw", ".iso", ".vdi", ".vmdk", ".vhd", ".vhdx")
_FOREIGN_DISKS: Final = (".vdi", ".vmdk", ".vhd", ".vhdx")
_SYSTEMS: Final = (
    "alma", "almalinux", "alpine", "amazonlinux", "arch", "archlinux", "centos",
    "fedora", "freebsd", "gentoo", "kali", "linux", "netbsd", "nixos", "node", "openbsd",
    "opensuse", "python", "rocky", "rockylinux", "ubuntu", "void", "windows",
)  # fmt: skip
_PUBLISHED: Final = (
    "almalinux", "alpine", "amazonlinux", "archlinux", "fedora", "node", "python", "rockylinux",
    "ubuntu",
)  # fmt: skip
"""Those that Docker Hub has under this name."""

_LOGGED: Final = frozenset({
    "cpu", "cpu_reset", "exec", "fpu", "guest_errors", "in_asm", "int", "mmu", "nochain", "op",
    "op_opt", "out_asm", "page", "pcall", "plugin", "strace", "unimp",
})  # fmt: skip
"""What QEMU's option -d writes to a log."""

_ALSO: Final = ", the file of a kernel, or --bare PROGRAM"
_HEAD: Final = 0x8006 + 0x8000
_BOOT_SIGNATURE: Final = (510, b"\x55\xaa")
_SETUP: Final = (0x202, b"HdrS")
_ELF: Final = (0, b"\x7fELF")
# The first match decides; the places are those of each format's description.
_DISKS: Final = (
    ("qcow2", 0, b"QFI\xfb"),
    ("iso", 0x8001, b"CD001"),
    ("raw", 512, b"EFI PART"),
    ("raw", 0x438, b"\x53\xef"),  # ext2, ext3, ext4
    ("raw", 0, b"XFSB"),
    ("raw", 0, b"hsqs"),  # squashfs
    ("raw", *_BOOT_SIGNATURE),
)


class Kind(Enum):
    """What a word names."""

    GUEST = auto()
    IMAGE = auto()
    KERNEL = auto()
    DISK = auto()


@dataclass(frozen=True, slots=True)
class Word:
    """The meaning of a word; `path` is the file of a kernel or a disk."""

    kind: Kind
    text: str
    path: Path | None = None


def meaning(text: str, *, python: bool = False) -> Word:
    """Return the meaning of `text`.  Raises ConfigError, which says what to give instead.

    With `python`, it names the parameters of `ringlet.Machine`, else the command line's options.
    The name of a guest or of an image of the store counts before a file's.
    """
    if text in NAMES:
        return Word(Kind.GUEST, text)
    if "://" in text or text.startswith("oci:") or _is_stored(text):
        return Word(Kind.IMAGE, text)
    path = Path(text)
    try:
        if path.is_dir():
            given = f"root={text!r}" if python else f"--root {text}"
            raise ConfigError(f"{text}: is a directory; to use it as a guest's root, give {given}")
        if path.is_file() or path.is_block_device():
            return _file(text, path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{text!r}: cannot be read: {error}") from None
    raise _unknown(text, python=python)


def _is_stored(text: str) -> bool:
    """Return whether the store has an image of this name."""
    try:
        return Images().find(text) is not None
    except RingletError:  # no image has such a name, or there is no store
        return False


def disk_format(head: bytes) -> str:
    """Return the format of a disk image that begins with `head`, or an empty text."""
    for name, offset, magic in _DISKS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""


def _file(text: str, path: Path) -> Word:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ConfigError(f"{text}: cannot be read: {error.strerror}") from None
    # A bzImage has the signature of a boot sector, too.
    if any(head[at : at + len(magic)] == magic for at, magic in (_SETUP, _ELF)):
        return Word(Kind.KERNEL, text, path)
    if disk_format(head) or path.suffix in DISK_SUFFIXES:
        if path.suffix in _FOREIGN_DISKS:
            raise ConfigError(
                f"{text}: is no raw or qcow2 image; convert it: qemu-img convert -O qcow2 {text} "
                f"{path.stem}.qcow2"
            )
        return Word(Kind.DISK, text, path)
    if multiboot.find(head) is not None or multiboot2.find(head) is not None:
        return Word(Kind.KERNEL, text, path)
    if is_archive(text):
        return Word(Kind.IMAGE, text, path)
    raise ConfigError(
        f"{text}: this file is neither a kernel, nor a disk image (raw, qcow2 or ISO), nor a "
        f"root file system (FILE.tar); {flat_image.advice(path)}"
    )


def _unknown(text: str, *, python: bool) -> ConfigError:
    names = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
    if "/" in text or Path(text).suffix in DISK_SUFFIXES:
        return ConfigError(f"{text}: no such file")
    if not python and all(item in _LOGGED for item in text.split(",")):
        return ConfigError(
            f"{text}: no guest has this name; for QEMU's -d {text} give --trace FILE"
        )
    if text.partition(":")[0].lower() in _PUBLISHED:
        return ConfigError(
            f"{text}: Ringlet has no guest of this name; give {names}, or docker://{text} for the "
            "image of Docker Hub"
        )
    if text.partition(":")[0].lower() in _SYSTEMS:
        return ConfigError(
            f"{text}: Ringlet has no guest of this name; give {names}, or "
            f"{'kernel= and initrd=' if python else '--kernel and --initrd'} with files of that "
            "system"
        )
    return ConfigError(
        f"{text}: no guest or image has this name, and there is no such file; give {names}"
        f"{', an image or the file of a kernel' if python else _ALSO}; the command "
        "`ringlet image ls` lists the images"
    )
