"""The releases of Debian whose kernels and packages are known."""

import re
from dataclasses import dataclass, replace
from typing import Final

from ringlet.errors import ImageError

AMD64: Final = "amd64"
I386: Final = "i386"


@dataclass(frozen=True, slots=True)
class Release:
    """A release: its number, as in /etc/os-release, and its name in apt's sources.

    `architecture` is Debian's name of the processors that its packages are for.
    """

    number: str
    codename: str
    architecture: str = AMD64

    @property
    def directory(self) -> str:
        """The name of its directories in the cache."""
        if self.architecture == AMD64:
            return self.codename
        return f"{self.codename}-{self.architecture}"

    def __str__(self) -> str:
        other = "" if self.architecture == AMD64 else f" for {self.architecture}"
        return f"Debian {self.number}{other}"


DEBIAN_13: Final = Release("13", "trixie")
DEBIAN_12: Final = Release("12", "bookworm")
DEBIAN_11: Final = Release("11", "bullseye")
DEBIAN_12_I386: Final = Release("12", "bookworm", I386)
RELEASES: Final = (DEBIAN_13, DEBIAN_12, DEBIAN_11)
DEFAULT: Final = DEBIAN_13
_FOR_I386: Final = re.compile(r"-686(-|$)")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def split_release(package: str) -> tuple[str, Release]:
    """Return the name and the release in `package`: apt's "NAME:i386/bookworm", or without a part.

    Raises ImageError.
    """
    whole, slash, codename = package.partition("/")
    name, colon, architecture = whole.partition(":")
    if not _NAME.fullmatch(name):
        raise ImageError(f"{package!r} is not the name of a package")
    if colon and architecture not in (AMD64, I386):
        raise ImageError(f"{package!r}: give {name}:{AMD64} or {name}:{I386}")
    narrow, is_kernel = architecture == I386, name.startswith("linux-image-")
    if is_kernel and not narrow and _FOR_I386.search(name):
        raise ImageError(f"{package}: is a kernel for i386; give {name}:{I386}/bookworm")
    if is_kernel and narrow and (not slash or codename == DEFAULT.codename):
        raise ImageError(
            f"{package}: Debian {DEFAULT.number} has no kernels for i386; give {whole}/bookworm"
        )
    for release in RELEASES:
        if codename == release.codename or (release == DEFAULT and not slash):
            return name, replace(release, architecture=architecture or AMD64)
    known = " or ".join(f"{whole}/{release.codename}" for release in RELEASES)
    raise ImageError(f"{package!r}: no such release of Debian is known; give {known}")
