"""The names of images: what a user may write for a guest, and how the store calls it.

docker://python:3.12    an image of a registry; without a host, Docker Hub's
oci:DIR or oci:DIR:TAG  a directory in OCI's layout
FILE.tar                a root file system, or what `docker save` wrote; any compression
FILE.qcow2, FILE.img    the disk of a cloud image
NAME                    an image in the store
"""

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from ringlet.errors import ConfigError

OWN: Final = ("debian", "busybox")
"""The guests that Ringlet makes itself; no image of others has their names, or one with a tag."""
_HUB: Final = "docker.io"
_TARS: Final = re.compile(r".*\.(tar(\.(gz|xz|bz2|zst))?|tgz|txz|tbz2?)", re.IGNORECASE)
_DISKS: Final = re.compile(r".*\.(qcow2|img|raw)", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PATH: Final = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Kind(Enum):
    """Where an image comes from."""

    REGISTRY = "registry"
    LAYOUT = "oci"
    TAR = "tar"
    DISK = "disk"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Source:
    """A source: its kind, the file or directory or reference, and the name for the store."""

    kind: Kind
    text: str
    name: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """An image of a registry: host, path, and a tag or a digest such as "sha256:..."."""

    host: str
    path: str
    version: str

    @property
    def name(self) -> str:
        """The name as people write it, unless Ringlet's own guests have that one."""
        mark = "@" if self.version.startswith("sha256:") else ":"
        short = self.path.removeprefix("library/")
        if self.host == _HUB and short not in OWN:
            return f"{short}{mark}{self.version}"
        return f"{self.host}/{self.path}{mark}{self.version}"


def parse_source(text: str) -> Source:
    """Return what `text` names.  Raises ConfigError."""
    if text.startswith("docker://"):
        reference = parse_reference(text.removeprefix("docker://"))
        return Source(Kind.REGISTRY, text.removeprefix("docker://"), reference.name)
    if text.startswith("oci:"):
        directory, tag = text.removeprefix("oci:"), ""
        if not Path(directory).is_dir() and ":" in directory:
            directory, _, tag = directory.rpartition(":")
        if not directory:
            raise ConfigError(f"{text!r} names no directory; give oci:DIR")
        base = _stem(directory.rstrip("/"))
        return Source(Kind.LAYOUT, directory, f"{base}:{tag}" if tag else base, tag)
    if _TARS.fullmatch(text):
        return Source(Kind.TAR, text, _stem(text))
    if _DISKS.fullmatch(text):
        return Source(Kind.DISK, text, _stem(text))
    return Source(Kind.STORED, text, check_name(text))


def is_archive(text: str) -> bool:
    """Return whether `text` is the name of an archive's file."""
    return _TARS.fullmatch(text) is not None


def is_file_of_images(text: str) -> bool:
    """Return whether `text` is the name of an archive's or a disk's file."""
    return is_archive(text) or _DISKS.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Return the image of a registry that `text` names, as Docker reads it.  Raises ConfigError."""
    rest, _, digest = text.partition("@")
    first, slash, path = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host = first
    else:
        host, path = _HUB, rest
    path, colon, tag = path.partition(":")
    if host == _HUB and path and "/" not in path:
        path = f"library/{path}"
    version = digest or tag or ("" if colon else "latest")
    good = _DIGEST.fullmatch(digest) if digest else _TAG.fullmatch(version)
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path) or not good or len(text) > 400:
        raise ConfigError(
            f"{text!r} is not the name of an image; for example: docker://python:3.12"
        )
    return Reference(host, path, version)


def check_name(name: str) -> str:
    """Return `name` if the store can have an image of this name.  Raises ConfigError."""
    if not _PLAIN.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{name!r} is not the name of an image; use letters, digits and '.', '_', '-', ':', '/'"
        )
    return name


def is_own(name: str) -> bool:
    """Return whether `name` is for guests that Ringlet makes itself."""
    return re.split("[:@]", name)[0] in OWN


def to_file(name: str) -> str:
    """Return the name of the directory in which the store has the image `name`."""
    return quote(name, safe="")


def from_file(file: str) -> str:
    """Return the name of the image in the store's directory `file`."""
    return unquote(file)


def _stem(path: str) -> str:
    suffix = r"\.(tar(\.\w+)?|tgz|txz|tbz2?|qcow2|img|raw)$"
    name = re.sub(suffix, "", Path(path).name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-")
    return check_name(name or "image")
