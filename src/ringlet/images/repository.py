"""Debian's packages fetched by Ringlet itself, for hosts without apt.

It does what `ringlet.images.apt` asks apt to do: the lists are verified by Debian's signing keys
(gpgv checks the signature of InRelease), a package by the SHA-256 in the lists.  The formats are
those of https://wiki.debian.org/DebianRepository/Format and deb-control(5).
"""

import base64
import datetime as dt
import email.utils
import hashlib
import importlib.resources
import lzma
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.apt import LISTS_AGE_S, OTHERWISE, SOURCES, Version
from ringlet.images.compression import MEMORY
from ringlet.images.deb import fields
from ringlet.images.interruptible import interruptible
from ringlet.images.release import DEFAULT, Release
from ringlet.images.resolver import Package, Packages
from ringlet.images.store import explain
from ringlet.images.tools import output

_MIRROR: Final = "http://deb.debian.org/debian"
_SECURITY: Final = "http://deb.debian.org/debian-security"
_KEYS: Final = "debian-keys.asc"
_ARMOR: Final = re.compile(
    r"-----BEGIN PGP PUBLIC KEY BLOCK-----\n(?:[^\n]+\n)*\n([A-Za-z0-9+/=\n]+?)\n=", re.MULTILINE
)
_BAD: Final = frozenset(("BADSIG", "NODATA", "UNEXPECTED", "FAILURE"))
_MAX_LIST: Final = 256 << 20
_TIMEOUT_S: Final = 30
_TRIES: Final = 3
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite of a server, such as bookworm-security; one whose name ends in "/" is flat."""

    uri: str
    name: str
    components: tuple[str, ...]
    trusted: bool = False

    @property
    def directory(self) -> str:
        """The address of the suite's InRelease."""
        base = self.uri.rstrip("/")
        if self.name.endswith("/"):
            return f"{base}/{self.name.strip('./')}".rstrip("/")
        return f"{base}/dists/{self.name}"

    def lists(self, architecture: str) -> Iterator[str]:
        """Yield the paths of the package lists below the directory, without their suffix."""
        if self.name.endswith("/"):
            yield "Packages"
        else:
            for component in self.components:
                yield f"{component}/binary-{architecture}/Packages"


class Repository:
    """Packages of a release of Debian, with their lists in `root`.

    `RINGLET_APT_SOURCES` names a file of sources that replace Debian's own server, in the form of
    /etc/apt/sources.list.d/debian.sources.  The methods raise ImageError.
    """

    def __init__(
        self, root: Path, release: Release = DEFAULT, *, sources: str = "",
        otherwise: str = OTHERWISE,
    ) -> None:  # fmt: skip
        self.release = release
        self._root = root
        self._sources = sources
        self._otherwise = otherwise
        self._packages: Packages | None = None

    def prepare(self) -> None:
        """Create the directory and look for the tool that checks signatures."""
        if shutil.which("gpgv") is None and not all(suite.trusted for suite in self._suites()):
            raise ImageError(
                "gpgv is not installed, but checking Debian's signatures needs it; install gpgv "
                f"(Debian, Ubuntu) or gnupg (others){self._otherwise}"
            )
        try:
            (self._root / "lists").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, self._root.parent) from error

    def lists_are_new(self) -> bool:
        """Return whether the package lists were fetched within the last day."""
        try:
            age = time.time() - (self._root / "lists" / "updated").stat().st_mtime
        except OSError:
            return False
        return 0 <= age < LISTS_AGE_S

    def update(self) -> None:
        """Fetch the package lists."""
        self._packages = None
        directory = self._root / "lists"
        try:
            for left in directory.iterdir():
                left.unlink()
            number = 0
            for suite in self._suites():
                sums = self._release(suite)
                for path in suite.lists(self.release.architecture):
                    text = self._list(suite, path, sums)
                    name = f"{number:03}.{base64.urlsafe_b64encode(suite.uri.encode()).decode()}"
                    (directory / name).write_bytes(text)
                    number += 1
            (directory / "updated").touch()
        except OSError as error:
            raise explain(error, self._root.parent) from error

    def show(self, package: str) -> Mapping[str, str]:
        """Return the fields of the newest version of `package`; empty if there is none."""
        found = self._all().newest(package)
        return found.fields if found is not None else {}

    def closure(self, packages: Sequence[str]) -> dict[str, Version]:
        """Return the newest versions of `packages` and of all that they depend on."""
        found = self._all().closure(packages)
        return {package.name: Version(package.version, package.size) for package in found}

    def download(self, package: str, directory: Path) -> Path:
        """Fetch the newest version of `package` to `directory` and return the file's path."""
        found = self._all().newest(package)
        if found is None:
            raise ImageError(f"{package}: {self.release} has no such package")
        return self._fetch_package(found, directory)

    def download_all(self, packages: Mapping[str, Version], directory: Path) -> list[Path]:
        """Fetch `packages` to `directory`, which is empty, and return the files' paths."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                return sorted(pool.map(lambda package: self.download(package, directory), packages))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    # --- inside

    def _suites(self) -> list[Suite]:
        text = self._sources
        if not text and (path := os.environ.get(SOURCES, "")):
            try:
                text = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ImageError(f"{SOURCES}: {path}: cannot be read: {error}") from error
        if text:
            return list(_read_sources(text))
        name = self.release.codename
        return [
            Suite(_MIRROR, name, ("main",)), Suite(_MIRROR, f"{name}-updates", ("main",)),
            Suite(_SECURITY, f"{name}-security", ("main",)),
        ]  # fmt: skip

    def _all(self) -> Packages:
        if self._packages is None:
            packages = Packages(str(self.release))
            for path in sorted((self._root / "lists").glob("[0-9]*")):
                uri = base64.urlsafe_b64decode(path.name.partition(".")[2]).decode()
                packages.add(path.read_text(encoding="utf-8", errors="replace"), uri)
            self._packages = packages
        return self._packages

    def _release(self, suite: Suite) -> dict[str, tuple[str, int]]:
        """Return the SHA-256 and size of each file that the suite's verified InRelease lists."""
        if suite.trusted and suite.name.endswith("/"):
            return {}
        data = self._get(f"{suite.directory}/InRelease", _MAX_LIST)
        text = _without_signature(data) if suite.trusted else self._verified(suite, data)
        stanza = fields(text)
        if not suite.trusted:
            self._check_release(suite, stanza)
        sums = {}
        for line in stanza.get("SHA256", "").split("\n"):
            words = line.split()
            if len(words) == 3 and words[1].isdecimal():
                sums[words[2]] = words[0], int(words[1])
        return sums

    def _verified(self, suite: Suite, data: bytes) -> str:
        """Return the text that one of Debian's keys has signed."""
        keyring, signed, text = (self._root / name for name in ("keys.gpg", "signed", "text"))
        keyring.write_bytes(_dearmored())
        signed.write_bytes(data)
        text.unlink(missing_ok=True)
        options = ["--status-fd", "1", "--keyring", str(keyring), "--output", str(text)]
        try:
            done = output(["gpgv", *options, signed], _TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise ImageError(f"cannot run gpgv: {error}") from error
        # Debian signs with the keys of several releases, and not all of them need be known here.
        lines = [line.split() for line in done.stdout.splitlines()]
        words = {line[1] for line in lines if len(line) > 1 and line[0] == "[GNUPG:]"}
        if "GOODSIG" not in words or words & _BAD or not text.exists():
            raise ImageError(
                f"{suite.directory}/InRelease: Debian has not signed it; use another mirror"
            )
        return text.read_text(encoding="utf-8", errors="replace")

    def _check_release(self, suite: Suite, stanza: Mapping[str, str]) -> None:
        """Refuse the lists of another release, and those that a mirror has not renewed."""
        names = {stanza.get("Codename", ""), stanza.get("Suite", "")}
        if suite.name not in names and self.release.codename not in names:
            raise ImageError(f"{suite.directory}: the server has another release there")
        text = stanza.get("Valid-Until", "")
        until = email.utils.parsedate_to_datetime(text) if text else None
        if until is not None and until < dt.datetime.now(dt.UTC):
            raise ImageError(
                f"{suite.directory}: its lists were valid until {until:%Y-%m-%d}; "
                "use another mirror, or set this host's clock"
            )

    def _list(self, suite: Suite, path: str, sums: Mapping[str, tuple[str, int]]) -> bytes:
        address = f"{suite.directory}/{path}"
        if suite.trusted and not sums:
            return self._get(address, _MAX_LIST)
        for suffix in (".xz", ".gz", ""):
            if (known := sums.get(path + suffix)) is None:
                continue
            data = self._get(address + suffix, known[1])
            if hashlib.sha256(data).hexdigest() != known[0]:
                raise ImageError(f"{address}{suffix}: does not match its SHA-256; try again later")
            return _plain(data, suffix, address)
        raise ImageError(f"{address}: the server has no such list")

    def _fetch_package(self, package: Package, directory: Path) -> Path:
        place = package.fields.get("Filename", "")
        if ".." in place.split("/"):
            raise ImageError(f"{package.name}: its place on the server is invalid")
        version = package.version.replace(":", "%3a")
        path = directory / f"{package.name}_{version}_{package.fields.get('Architecture')}.deb"
        data = self._get(f"{package.uri.rstrip('/')}/{place.removeprefix('./')}", package.size)
        if hashlib.sha256(data).hexdigest() != package.fields.get("SHA256", ""):
            raise ImageError(f"cannot fetch {package.name}: it does not match its SHA-256")
        try:
            path.write_bytes(data)
        except OSError as error:
            raise explain(error, self._root.parent) from error
        return path

    def _get(self, address: str, most: int) -> bytes:
        """Return what a server has at `address`: not more than `most` bytes."""
        if not address.startswith(("http://", "https://", "file:")):
            raise ImageError(f"{address}: give an address with http:, https: or file:")
        request = urllib.request.Request(address, headers={"User-Agent": "ringlet"})  # noqa: S310
        trouble: Exception = OSError("no answer")
        for _ in range(_TRIES):
            try:
                with interruptible(lambda: _open(request)) as response:
                    data = bytes(response.read(most + 1))
            except urllib.error.HTTPError as error:
                with error:
                    raise ImageError(f"{address}: the server answers {error.code}") from error
            except (OSError, HTTPException) as error:
                trouble = error
                continue
            if len(data) > most:
                raise ImageError(f"{address}: longer than the lists say; try again later")
            return data
        reason = getattr(trouble, "reason", None) or trouble
        raise ImageError(
            f"cannot fetch {address.rpartition('/')[2]}: the network does not reach Debian "
            f"({reason}); connect this host to the network once, or name a mirror's sources in "
            f"{SOURCES}{self._otherwise}"
        )


def _open(request: urllib.request.Request) -> HTTPResponse:
    response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    return response


def _read_sources(text: str) -> Iterator[Suite]:
    """Yield the suites of sources in the deb822 form."""
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
        given = {key.lower(): value.split() for key, value in fields(stanza.strip()).items()}
        if "deb" not in given.get("types", []):
            continue
        trusted = given.get("trusted") == ["yes"]
        for uri in given.get("uris", []):
            for suite in given.get("suites", []):
                yield Suite(uri, suite, tuple(given.get("components", [])), trusted)


def _without_signature(data: bytes) -> str:
    text = data.decode(errors="replace")
    return text.partition("\n\n")[2] if text.startswith("-----BEGIN PGP SIGNED") else text


def _plain(data: bytes, suffix: str, address: str) -> bytes:
    try:
        if suffix == ".xz":
            plain = lzma.LZMADecompressor(memlimit=MEMORY).decompress(data, _MAX_LIST)
        elif suffix == ".gz":
            plain = zlib.decompressobj(31).decompress(data, _MAX_LIST)
        else:
            return data
    except (lzma.LZMAError, zlib.error) as error:
        raise ImageError(f"{address}: the list is damaged: {error}") from error
    return plain


def _dearmored() -> bytes:
    """Return Debian's keys as gpgv reads them: without the armor that makes them text."""
    text = importlib.resources.files("ringlet.images").joinpath(_KEYS).read_text(encoding="utf-8")
    return b"".join(base64.b64decode(block) for block in _ARMOR.findall(text))
