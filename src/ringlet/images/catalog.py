"""The images of guests in the cache directory: made whole or not at all, used by many, removed.

    $XDG_CACHE_HOME/ringlet/images/
        NAME/image.json     what the image is, written last
        NAME/disk.raw       or disk.qcow2: the read-only base of a guest's disk
        NAME/users          locked by each machine that uses the image

NAME is quoted as in a URL.  A machine never writes to a base: what a guest writes goes to an
overlay of its own.  An image is made in a directory beside its place, which is then renamed.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ringlet.errors import ConfigError, ImageError
from ringlet.images.names import check_name, from_file, is_own, to_file
from ringlet.images.store import UNFINISHED, Store, default_root, explain, is_locked

DEBIAN: Final = "debian"
"""The kind of the images that Ringlet builds (`ringlet.images.building`)."""
_DESCRIPTION: Final = "image.json"
_USERS: Final = "users"
REMOVED: Final = ".removed-"
_FORMAT: Final = 1
_LONGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How a command runs in an image, as OCI's configuration says it.

    `root` is the device of the root file system, seen from the guest whose first disk is the image.
    `boots` says that the image has an init of its own, such as systemd.
    """

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    directory: str = "/"
    user: str = ""
    root: str = "/dev/vda"
    boots: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the store: its kind ("debian", "oci", "tar" or "disk") and its base disk.

    `size` is the room that it takes on the host, in bytes, `created` the time in seconds since
    1970, and `digest` names the contents if their origin has such a name; that of Debian's image
    names what it was made from.
    """

    name: str
    kind: str
    disk: Path
    format: str
    size: int
    created: float
    source: str = ""
    digest: str = ""
    settings: Settings = field(default_factory=Settings)

    @property
    def made_again(self) -> bool:
        """Whether a run that names the image makes it again if it is gone.

        Ringlet builds Debian's, and a registry has those that have its own name for them.
        """
        return self.kind == DEBIAN or self.source == f"docker://{self.name}"

    def in_use(self) -> bool:
        """Return whether a running machine uses the image."""
        return is_locked(self.disk.parent / _USERS, fcntl.LOCK_EX)

    @contextlib.contextmanager
    def used(self) -> Iterator[Path]:
        """Give the path of the disk, and keep the image in the store meanwhile.

        Raises ImageError if it is gone.
        """
        path = self.disk.parent / _USERS
        try:
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"{self.name}: this image is gone from the store") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not self.disk.exists():  # it was removed before the lock was taken
                raise ImageError(f"{self.name}: this image is gone from the store")
            yield self.disk
        finally:
            os.close(lock)


@dataclass(slots=True)
class Draft:
    """An image that is being made in `directory`; `disk` is to be written there."""

    directory: Path
    kind: str
    format: str = "raw"
    source: str = ""
    digest: str = ""
    settings: Settings = field(default_factory=Settings)

    @property
    def disk(self) -> Path:
        """The path of the disk."""
        return self.directory / f"disk.{self.format}"


class Images:
    """All images of the cache directory.  The methods raise ImageError and ConfigError."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store(default_root())
        self.root = self.store.root / "images"

    def list(self) -> Sequence[Image]:
        """Return all images, sorted by name."""
        try:
            names = sorted(from_file(path.name) for path in self.root.iterdir() if _is_image(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise explain(error, self.store.root) from error
        return [image for name in names if (image := self.find(name)) is not None]

    def find(self, name: str) -> Image | None:
        """Return the image, or None if there is none or its disk is not what was made."""
        directory = self.root / to_file(check_name(name))
        try:
            with (directory / _DESCRIPTION).open(encoding="utf-8") as file:
                content = json.loads(file.read(_LONGEST))
            return _image(name, directory, content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @contextlib.contextmanager
    def adding(
        self, name: str, kind: str, on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[Draft]:
        """Give a draft whose disk the body makes; if the body succeeds, it becomes the image.

        It replaces an image of this name; machines that use that one keep its files.  Only images
        of the kind "debian" have the names of Ringlet's own guests.
        """
        if is_own(name) and kind != DEBIAN:
            raise ConfigError(
                f"{name}: this is the name of a guest that Ringlet makes itself; import the image "
                "by another one: ringlet image import SOURCE --name NAME"
            )
        place = self.root / to_file(check_name(name))
        with self.store.locked(on_wait):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                for pattern in (f"{UNFINISHED}*", f"{REMOVED}*"):  # left by a killed process
                    for left in self.root.glob(pattern):
                        shutil.rmtree(left, ignore_errors=True)
                made = self.root / f"{UNFINISHED}{os.getpid()}"
                made.mkdir(0o700)
                try:
                    draft = Draft(made, kind)
                    yield draft
                    _finish(draft)
                    self._put_away(place)
                    made.rename(place)
                finally:
                    shutil.rmtree(made, ignore_errors=True)
            except OSError as error:
                raise explain(error, self.store.root) from error

    def remove(self, name: str, on_wait: Callable[[], None] = lambda: None) -> None:
        """Remove the image.  Raises ImageError if there is none or a machine uses it.

        `on_wait` is called if another process changes the store.
        """
        place = self.root / to_file(check_name(name))
        if not place.is_dir():
            raise ImageError(f"{name}: there is no such image; `ringlet image ls` lists all")
        with self.store.locked(on_wait):
            try:
                self._put_away(place, unused=True)
            except OSError as error:
                raise explain(error, self.store.root) from error

    # --- inside

    def _put_away(self, place: Path, *, unused: bool = False) -> None:
        if not place.exists():
            return
        with contextlib.ExitStack() as stack:
            if unused:
                users = os.open(place / _USERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, users)
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ImageError(
                        f"{from_file(place.name)}: a running machine uses this image; stop it first"
                    ) from None
            gone = self.root / f"{REMOVED}{os.getpid()}-{time.monotonic_ns()}"
            place.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir()


def _finish(draft: Draft) -> None:
    for path in draft.directory.iterdir():
        if path != draft.disk:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    draft.disk.chmod(0o400)
    (draft.directory / _USERS).touch()
    status = draft.disk.stat()
    content = {
        "format": _FORMAT, "kind": draft.kind, "disk": draft.disk.name, "source": draft.source,
        "digest": draft.digest, "bytes": status.st_size, "changed": status.st_mtime_ns,
        "created": time.time(), "settings": asdict(draft.settings),
    }  # fmt: skip
    path = draft.directory / _DESCRIPTION
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _image(name: str, directory: Path, content: Mapping[str, Any]) -> Image | None:
    disk = directory / Path(str(content["disk"])).name
    status = disk.stat()
    if content["format"] != _FORMAT or status.st_size != content["bytes"]:
        return None
    if status.st_mtime_ns != content["changed"]:
        return None
    given = content["settings"]
    env, entrypoint, command = (
        tuple(map(str, given[key])) for key in ("env", "entrypoint", "command")
    )
    place, user, root = (str(given[key]) for key in ("directory", "user", "root"))
    settings = Settings(env, entrypoint, command, place, user, root, bool(given["boots"]))
    return Image(
        name, str(content["kind"]), disk, disk.suffix.removeprefix("."), status.st_blocks * 512,
        float(content["created"]), str(content["source"]), str(content["digest"]), settings,
    )  # fmt: skip
