"""Makes images of the store from archives, OCI layouts, registries and cloud images."""

import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ringlet.devices.backends.disks.chain import describe_image
from ringlet.disk_spec import Below, Format
from ringlet.errors import ConfigError, DiskError, ImageError
from ringlet.images.catalog import Draft, Image, Images, Settings
from ringlet.images.compression import DAMAGED, decompressed
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.files import open_plain
from ringlet.images.headers import members, open_tar
from ringlet.images.names import (
    Kind,
    Source,
    is_file_of_images,
    parse_reference,
    parse_source,
)
from ringlet.images.oci import (
    Archive,
    Blobs,
    Directory,
    find_manifest,
    unpack,
    unpack_docker_archive,
)
from ringlet.images.registry import Registry
from ringlet.images.tarball import add_tar
from ringlet.images.tree import Tree, directory

SIZE: Final = 8 << 30
"""The size of the disk that a guest sees, in bytes; the host's file has what is in it."""
_SECTOR: Final = 512
_LISTED: Final = 16
_SHOWN: Final = 8
_INITS: Final = ("sbin/init", "usr/sbin/init", "usr/lib/systemd/systemd")
_ENV: Final = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
Update = Callable[[str], None]


def import_image(
    text: str, images: Images, update: Update, *, name: str = "", size: int = SIZE
) -> Image:
    """Make an image of what `text` names, such as "docker://python:3.12" or "root.tar.xz".

    The image gets the name `name`, or else one by its source, and replaces an image of that name.
    `size` is that of the guest's disk.  Raises ImageError and ConfigError.
    """
    _require_image(text)
    source = parse_source(text)
    if source.kind is Kind.STORED:
        raise ConfigError(
            f"{text!r} names nothing to import; give FILE.tar, FILE.qcow2, oci:DIR or docker://NAME"
        )
    name = name or source.name

    def waits() -> None:
        update("waiting for another ringlet process that makes an image")

    kind = {Kind.TAR: "tar", Kind.DISK: "disk"}.get(source.kind, "oci")
    with images.adding(name, kind, waits) as draft:
        draft.source = _origin(source)
        match source.kind:
            case Kind.DISK:
                _copy_disk(Path(source.text), draft, update)
            case Kind.TAR:
                _from_tar(Path(source.text), draft, size, update)
            case Kind.LAYOUT:
                layout = Directory(Path(source.text))
                _from_blobs(layout, layout.index(), source, draft, size, update)
            case Kind.REGISTRY:
                parts = draft.directory / "blobs"
                parts.mkdir()
                registry = Registry(parse_reference(source.text), parts, update)
                _from_blobs(registry, registry.index(), source, draft, size, update)
                shutil.rmtree(parts)
    image = images.find(name)
    if image is None:
        raise ImageError(f"{images.root}: the disk returns wrong data; check the disk")
    return image


def find_image(text: str, images: Images, update: Update) -> Image:
    """Return the image that `text` names: from the store, or else fetched or imported.

    A file or directory is imported again only if it has changed.  Raises ImageError and
    ConfigError.
    """
    source = parse_source(text)
    found = images.find(source.name)
    if source.kind is Kind.STORED:
        if found is None:
            known = ", ".join(image.name for image in images.list()[:_SHOWN])
            what = f"the store has {known}" if known else "the store is empty"
            raise ImageError(
                f"{text}: there is no such image; {what}; a registry's is docker://{text}"
            )
        return found
    if source.kind is Kind.REGISTRY:
        return pull(text, images, update)
    if found is not None and found.source == _origin(source) and not _changed(source, found):
        return found
    return import_image(text, images, update)


def pull(text: str, images: Images, update: Update, *, again: bool = False) -> Image:
    """Return the image of a registry that `text` names, from the store or else fetched.

    With `again` it is fetched in any case.  An image of this name that came from elsewhere is
    replaced.  Raises ImageError and ConfigError.
    """
    source = parse_source(f"docker://{text.removeprefix('docker://')}")
    image = None if again else images.find(source.name)
    if image is not None and image.source == _origin(source):
        return image
    return import_image(f"docker://{source.text}", images, update)


# --- inside


def _require_image(text: str) -> None:
    """Raise ConfigError for a file or a directory whose name is none of an image."""
    if text.startswith(("docker://", "oci:")) or is_file_of_images(text):
        return
    path = Path(text)
    if path.is_dir():
        raise ConfigError(
            f"{text}: is a directory; give oci:{text} if it is an OCI image, or an archive of it: "
            f"tar -cf FILE.tar -C {shlex.quote(text)} ."
        )
    if path.exists():
        raise ConfigError(
            f"{text}: no image has such a file's name; those of archives end in .tar (or .tar.gz, "
            ".tar.xz, .tar.bz2, .tar.zst), those of disks in .qcow2, .img or .raw"
        )


def _origin(source: Source) -> str:
    """Return the name by which an image's source is found again."""
    if source.kind is Kind.REGISTRY:
        return f"docker://{source.name}"
    path = str(Path(source.text).resolve())
    return f"oci:{path}:{source.tag}" if source.kind is Kind.LAYOUT else path


def _changed(source: Source, image: Image) -> bool:
    """Return whether what `image` was made of is another one now."""
    if source.kind is Kind.LAYOUT:
        layout = Directory(Path(source.text))
        found, _ = find_manifest(layout, layout.index(), source.name, source.tag)
        return found.digest != image.digest
    try:
        return Path(source.text).stat().st_mtime >= image.created
    except OSError:
        return True


@contextmanager
def _filling(draft: Draft, size: int) -> Iterator[tuple[Tree, Ext4Writer]]:
    """Give a tree and a writer; after the body, the image is finished."""
    writer = Ext4Writer(draft.disk, size)
    try:
        tree = Tree()
        yield tree, writer
        for name in ("dev", "proc", "run", "sys", "tmp"):  # what a guest mounts
            if tree.find(name, follow=True) is None:
                tree.add(name, directory(0o1777 if name == "tmp" else 0o755))
        draft.settings = _completed(draft.settings, tree)
        writer.finish(tree)
    finally:
        writer.close()


def _completed(given: Settings, tree: Tree) -> Settings:
    boots = any(tree.find(path, follow=True) is not None for path in _INITS)
    return Settings(
        given.env or _ENV, given.entrypoint, given.command, given.directory, given.user, given.root,
        boots,
    )  # fmt: skip


def _from_blobs(
    blobs: Blobs, index: bytes, source: Source, draft: Draft, size: int, update: Update
) -> None:
    descriptor, manifest = find_manifest(blobs, index, source.name, source.tag)
    draft.digest = descriptor.digest
    with _filling(draft, size) as (tree, writer):
        draft.settings = unpack(blobs, manifest, source.name, tree, writer, update)


def _from_tar(path: Path, draft: Draft, size: int, update: Update) -> None:
    update(f"reading {path.name}")
    with _opened(path) as file:
        kind = _kind_of_archive(path, file, size)
    if kind:
        with _opened(path) as file, _random_access(path, file, draft, size) as archive:
            draft.kind = "oci"
            blobs = Archive(archive, path.name)
            if kind == "docker":
                with _filling(draft, size) as (tree, writer):
                    draft.settings = unpack_docker_archive(blobs, tree, writer, update)
            else:
                source = Source(Kind.LAYOUT, str(path), path.name)
                _from_blobs(blobs, blobs.read("index.json"), source, draft, size, update)
        return
    update(f"unpacking {path.name}")
    with (
        _opened(path) as file,
        decompressed(file, path.name) as plain,
        _filling(draft, size) as (tree, writer),
    ):
        add_tar(plain, path.name, tree, writer)
        if not tree.root.children:
            raise ImageError(f"{path}: the archive is empty")


def _kind_of_archive(path: Path, file: IO[bytes], most: int) -> str:
    """Return "oci", "docker", or nothing for the archive of a root file system.

    No more than `most` bytes are read, which is the size of the guest's disk.
    """
    try:
        with (
            decompressed(file, path.name) as plain,
            open_tar(plain, "r|") as archive,
        ):
            names = set()
            for _, member in zip(range(_LISTED), members(archive), strict=False):
                names.add(member.name.removeprefix("./").rstrip("/"))
                most -= member.size
                if most < 0:
                    break
    except (tarfile.TarError, *DAMAGED, ValueError, OSError) as error:
        raise ImageError(f"{path}: not a readable tar archive: {error}") from error
    if names & {"index.json", "oci-layout"} or any(n.startswith("blobs/sha256") for n in names):
        return "oci"
    marks = ("manifest.json", "repositories")
    docker = names & set(marks) or any(n.endswith(("/layer.tar", "/VERSION")) for n in names)
    return "docker" if docker else ""


@contextmanager
def _random_access(
    path: Path, file: IO[bytes], draft: Draft, most: int
) -> Iterator[tarfile.TarFile]:
    """Give an archive whose members can be read in any order: uncompressed, beside the draft.

    It may have `most` bytes, as the guest's disk has.
    """
    with decompressed(file, path.name) as plain:
        copy = draft.directory / "archive.tar"
        try:
            with copy.open("wb") as out:
                while data := plain.read(1 << 20):
                    out.write(data)
                    if out.tell() > most:
                        raise ImageError(
                            f"{path}: the archive is larger than the guest's disk; give a larger "
                            "one with --size"
                        )
            with copy.open("rb") as whole, open_tar(whole, "r:") as archive:
                yield archive
        except (tarfile.TarError, *DAMAGED, ValueError) as error:
            raise ImageError(f"{path}: not a readable tar archive: {error}") from error
        finally:
            copy.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, *, device: bool = False) -> Iterator[IO[bytes]]:
    try:
        file = open_plain(path, device=device)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        yield file


def _copy_disk(path: Path, draft: Draft, update: Update) -> None:
    """Copy a cloud image; its own loader and kernel, or the kernel that a user names, start it."""
    update(f"copying {path.name}")
    with _opened(path, device=True) as source:
        draft.format = _format_of(path).value
        with draft.disk.open("wb") as out:
            while data := source.read(1 << 20):
                if any(data):
                    out.write(data)
                else:
                    out.seek(len(data), 1)
            out.truncate(out.tell())
    draft.settings = Settings(root="auto", boots=True)


def _format_of(path: Path) -> Format:
    """Return the format of a disk image, which must need no other file of the host."""
    try:
        found = describe_image(path, below=Below.NONE)
    except DiskError as error:
        raise ImageError(str(error)) from error
    if found.format is Format.RAW:
        if path.suffix.lower() == ".qcow2":
            raise ImageError(f"{path}: this is not a qcow2 image; a raw disk's file is FILE.raw")
        if (size := path.stat().st_size) < _SECTOR:
            raise ImageError(f"{path}: this is no disk, it has {size} bytes")
    return found.format
