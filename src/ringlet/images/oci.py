"""Reads OCI images: from a directory, an archive or a registry, into a tree of files.

The formats are those of the OCI image specification 1.1 (image-layout.md, image-index.md,
manifest.md, config.md, layer.md), Docker's own media types, which differ by name only, and the
archive that `docker save` writes.  All of it is hostile input: each blob is checked against its
digest and size.
"""

import hashlib
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from ringlet.errors import ImageError
from ringlet.images.catalog import Settings
from ringlet.images.compression import Flow, decompressed
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.files import open_plain
from ringlet.images.headers import Spent, members
from ringlet.images.tarball import add_tar
from ringlet.images.tree import Tree

MAX_DOCUMENT: Final = 4 << 20
"""The most bytes of an index, a manifest or a configuration."""
MAX_LAYERS: Final = 512
MAX_NESTED: Final = 3
"""The most indexes that lead from one to the next."""
MAX_MEMBERS: Final = 1 << 16
"""The most members of the archive of a layout; each part of a sparse file is one more."""
_MAX_BLOB: Final = 1 << 63
_MAX_ENTRIES: Final = 1024
_MAX_PATH: Final = 255
_MAX_LINKS: Final = 8
_MAX_STRINGS: Final = 4096
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPTED: Final = (*_INDEXES, *_MANIFESTS)
"""The media types that `find_manifest` reads."""
_REF_NAME: Final = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob: its digest, such as "sha256:...", its size in bytes and its media type."""

    digest: str
    size: int
    media_type: str = ""


class Blobs(Protocol):
    """A place with blobs."""

    def open(self, blob: Descriptor) -> AbstractContextManager[IO[bytes]]:
        """Give the blob's bytes, which need not be what the descriptor says."""


class Directory:
    """The blobs of a directory in OCI's layout."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def index(self) -> bytes:
        """Return the directory's index.  Raises ImageError."""
        try:
            with open_plain(self._path / "index.json") as file:
                return file.read(MAX_DOCUMENT + 1) or b""
        except OSError as error:
            raise ImageError(f"{self._path}: no OCI image is there: {error.strerror}") from error

    @contextmanager
    def open(self, blob: Descriptor) -> Iterator[IO[bytes]]:
        """Give the blob's bytes."""
        path = self._path / "blobs" / blob.digest.replace(":", "/")
        try:
            file = open_plain(path)
        except OSError as error:
            raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
        with file:
            yield file


class Archive:
    """The blobs of a tar archive of an OCI layout."""

    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self.name = name
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        count = 0
        for member in members(archive):
            count += 1 + len(cast("Any", member).sparse or ())
            if count > MAX_MEMBERS:
                raise ImageError(f"{name}: too many files for the archive of an image")
            path = member.name.removeprefix("./")
            if max(len(path), len(member.linkname)) <= _MAX_PATH:
                self._members[path] = _without_texts(member)

    def read(self, path: str) -> bytes:
        """Return a document.  Raises ImageError."""
        with self.member(path) as file:
            return file.read(MAX_DOCUMENT + 1)

    @contextmanager
    def open(self, blob: Descriptor) -> Iterator[IO[bytes]]:
        """Give the blob's bytes."""
        with self.member(f"blobs/{blob.digest.replace(':', '/')}") as file:
            yield file

    @contextmanager
    def member(self, path: str) -> Iterator[IO[bytes]]:
        """Give the bytes of the archive's file `path`.  Raises ImageError."""
        member = self._members.get(path)
        # Old versions of Docker link a layer to that of another image.
        for _ in range(_MAX_LINKS):
            if member is None or not (member.issym() or member.islnk()):
                break
            above = posixpath.dirname(member.name) if member.issym() else ""
            member = self._members.get(posixpath.normpath(f"{above or '.'}/{member.linkname}"))
        file = self._archive.extractfile(member) if member and member.isreg() else None
        if file is None:
            raise ImageError(f"{self.name}: the archive has no file {path[:100]}")
        with file:
            yield file


def find_manifest(blobs: Blobs, index: bytes, name: str, tag: str = "") -> tuple[Descriptor, Any]:
    """Return the descriptor of the manifest for amd64 below `index`, and the manifest.

    Of several images, `tag` names one.  Raises ImageError.
    """
    content = document(index, name)
    for _ in range(MAX_NESTED):
        found = _choose(content, name, tag)
        tag = ""
        content = _object(read(blobs, found, name), name)
        kind = content.get("mediaType", found.media_type)
        if kind in _MANIFESTS or "layers" in content:
            return found, content
    raise ImageError(f"{name}: its indexes are nested too deeply")


def unpack(
    blobs: Blobs,
    manifest: Mapping[str, Any],
    name: str,
    tree: Tree,
    writer: Ext4Writer,
    update: Callable[[str], None],
) -> Settings:
    """Unpack the layers of an image and return its settings.  Raises ImageError."""
    config = _descriptor(manifest.get("config"), name)
    layers = [_descriptor(layer, name) for layer in _list(manifest.get("layers"), name, MAX_LAYERS)]
    settings = read_settings(read(blobs, config, name), name)
    flow, spent = Flow(), Spent()
    for number, layer in enumerate(layers):
        update(f"unpacking layer {number + 1} of {len(layers)} of {name}")
        with blobs.open(layer) as source:
            checked = Checked(source, layer, name)
            try:
                with decompressed(checked, name, flow) as plain:
                    add_tar(plain, name, tree, writer, layer=True, spent=spent)
            finally:
                checked.finish()  # other bytes than the digest's are the better reason
    return settings


def unpack_docker_archive(
    archive: Archive, tree: Tree, writer: Ext4Writer, update: Callable[[str], None]
) -> Settings:
    """Unpack an archive that `docker save` wrote, by its manifest.json.  Raises ImageError."""
    content = document(archive.read("manifest.json"), archive.name)
    images = _list(content, archive.name, _MAX_ENTRIES)
    if len(images) != 1 or not isinstance(images[0], dict):
        raise ImageError(f"{archive.name}: the archive has {len(images)} images; save one alone")
    layers = _list(images[0].get("Layers"), archive.name, MAX_LAYERS)
    settings = read_settings(archive.read(str(images[0].get("Config"))), archive.name)
    flow, spent = Flow(), Spent()
    for number, layer in enumerate(layers):
        update(f"unpacking layer {number + 1} of {len(layers)} of {archive.name}")
        with (
            archive.member(str(layer)) as source,
            decompressed(source, archive.name, flow) as plain,
        ):
            add_tar(plain, archive.name, tree, writer, layer=True, spent=spent)
    return settings


def read_settings(data: bytes, name: str) -> Settings:
    """Return the settings in an image's configuration.  Raises ImageError."""
    content = _object(data, name)
    system, machine = content.get("os", "linux"), content.get("architecture", "amd64")
    if (system, machine) != ("linux", "amd64"):
        raise ImageError(f"{name}: this image is for {system}/{machine}, not for linux/amd64")
    config = content.get("config") or {}
    if not isinstance(config, dict):
        raise ImageError(f"{name}: its configuration is invalid")
    return Settings(
        env=_strings(config.get("Env"), name), entrypoint=_strings(config.get("Entrypoint"), name),
        command=_strings(config.get("Cmd"), name),
        directory=_text(config.get("WorkingDir"), name) or "/",
        user=_text(config.get("User"), name),
    )  # fmt: skip


def read(blobs: Blobs, blob: Descriptor, name: str) -> bytes:
    """Return a document's bytes, which match its descriptor.  Raises ImageError."""
    if blob.size > MAX_DOCUMENT:
        raise ImageError(f"{name}: {blob.digest[:19]} is too large for a description")
    with blobs.open(blob) as source:
        checked = Checked(source, blob, name)
        data = checked.read()
        checked.finish()
    return data


def document(data: bytes, name: str) -> Any:
    """Return the JSON in `data`.  Raises ImageError."""
    if len(data) > MAX_DOCUMENT:
        raise ImageError(f"{name}: a description of the image is too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{name}: a description of the image is not JSON: {error}") from error


def _object(data: bytes, name: str) -> Mapping[str, Any]:
    content = document(data, name)
    if not isinstance(content, dict):
        raise ImageError(f"{name}: a description of the image is not an object of JSON")
    return content


class Checked(io.RawIOBase):
    """The bytes of a blob; reading them to the end and `finish` prove that they match it."""

    def __init__(self, source: IO[bytes], blob: Descriptor, name: str) -> None:
        self._source = source
        self._blob = blob
        self._name = name
        self._hash = hashlib.sha256()
        self._left = blob.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`.  Raises ImageError if the bytes end too early."""
        wanted = min(len(buffer), self._left)
        data = self._source.read(wanted)
        if wanted and not data:
            raise ImageError(f"{self._name}: the last {self._left} bytes of a blob are missing")
        self._hash.update(data)
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Read what is left.  Raises ImageError if the bytes are not those of the descriptor."""
        while self.read(1 << 20):
            pass
        if self._source.read(1):
            raise ImageError(f"{self._name}: {self._blob.digest[:19]} is longer than it says")
        if f"sha256:{self._hash.hexdigest()}" != self._blob.digest:
            raise ImageError(f"{self._name}: {self._blob.digest[:19]} does not match its digest")


# --- inside


def _without_texts(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return `member` with what finds its bytes, and none of its other texts, which may be long."""
    kept = tarfile.TarInfo(member.name)
    kept.type, kept.linkname, kept.size = member.type, member.linkname, member.size
    kept.offset_data = member.offset_data
    cast("Any", kept).sparse = cast("Any", member).sparse
    return kept


def _choose(index: Any, name: str, tag: str) -> Descriptor:
    """Return the entry of an index that is for amd64 and has the tag, if one is given."""
    entries = _list(index.get("manifests") if isinstance(index, dict) else None, name, _MAX_ENTRIES)
    found, tags = [], []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ImageError(f"{name}: its index is invalid")
        annotations = entry.get("annotations") or {}
        mark = annotations.get(_REF_NAME, "") if isinstance(annotations, dict) else ""
        platform = entry.get("platform")
        if isinstance(platform, dict):
            if (platform.get("os"), platform.get("architecture")) != ("linux", "amd64"):
                continue
            # Another variant, such as "v3", may need more than the guest's processor has.
            if platform.get("variant") not in (None, "", "v1", "v2"):
                continue
        if mark:
            tags.append(str(mark))
        if not tag or mark == tag:
            found.append(entry)
    if not found:
        known = f"; it has {', '.join(sorted(tags)[:8])}" if tags else ""
        what = f"no image {tag!r}" if tag else "no image for linux/amd64"
        raise ImageError(f"{name}: {what}{known}")
    if len({str(entry.get("digest")) for entry in found}) > 1 and len(set(tags)) > 1:
        raise ImageError(f"{name}: several images; name one: {', '.join(sorted(tags)[:8])}")
    return _descriptor(found[0], name)


def _descriptor(value: Any, name: str) -> Descriptor:
    if isinstance(value, dict):
        digest, size = value.get("digest"), value.get("size")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            size = None
        if isinstance(digest, str) and type(size) is int and 0 <= size < _MAX_BLOB:
            return Descriptor(digest, size, str(value.get("mediaType", "")))
    raise ImageError(f"{name}: a blob's description is invalid or has no SHA-256")


def _list(value: Any, name: str, most: int) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ImageError(f"{name}: a list in its description is missing or too long")
    return value


def _strings(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):  # images that old tools made
        return ("/bin/sh", "-c", value)
    return tuple(_text(item, name) for item in _list(value, name, _MAX_STRINGS))


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"{name}: a text in its configuration is invalid")
    return value
