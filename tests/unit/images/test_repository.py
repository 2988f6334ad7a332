"""Debian's packages without apt: signatures, hashes, and what a bad mirror sends."""

import gzip
import hashlib
import lzma
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import repository
from ringlet.images.release import DEBIAN_12
from ringlet.images.repository import Repository
from tests.unit.images.packages import NEEDS_APT
from tests.unit.images.packages import Repository as Flat

NEEDS_GPG = pytest.mark.skipif(
    not all(map(shutil.which, ("gpg", "gpgv"))), reason="this host has no gpg"
)
DEB = b"!<arch>\nnot read here"
RELEASE = """\
Origin: Debian
Suite: oldstable
Codename: bookworm
Date: Sat, 01 Jan 2022 00:00:00 UTC
Valid-Until: {until}
SHA256:
 {digest} {size} main/binary-amd64/Packages.xz
"""


class Server:
    """A directory that is a mirror with one package, signed by a key of the test."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "debian"
        self.suite = self.root / "dists/bookworm"
        self.home = directory / "gpg"
        self.home.mkdir(mode=0o700)
        (self.suite / "main/binary-amd64").mkdir(parents=True)
        (self.root / "pool").mkdir()
        (self.root / "pool/a.deb").write_bytes(DEB)
        self._gpg("--quick-gen-key", "--passphrase", "", "test@example.com", "ed25519", "sign")
        self.keys = self._gpg("--export").stdout
        self.packages = (
            f"Package: a\nVersion: 1\nArchitecture: amd64\nFilename: pool/a.deb\n"
            f"Size: {len(DEB)}\nSHA256: {hashlib.sha256(DEB).hexdigest()}\n"
        )
        self.write()

    def write(self, until: str = "Fri, 01 Jan 2100 00:00:00 UTC", **changes: str) -> None:
        """Write the lists and sign them; `changes` replace texts of the signed file."""
        data = lzma.compress(self.packages.encode())
        (self.suite / "main/binary-amd64/Packages.xz").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        text = RELEASE.format(until=until, digest=digest, size=len(data))
        for old, new in changes.items():
            text = text.replace(old, new)
        (self.suite / "Release").write_text(text)
        self._gpg("--yes", "--clearsign", "-o", self.suite / "InRelease", self.suite / "Release")

    def open(self, directory: Path) -> Repository:
        sources = f"Types: deb\nURIs: file://{self.root}\nSuites: bookworm\nComponents: main\n"
        found = Repository(directory / "lists", DEBIAN_12, sources=sources)
        found.prepare()
        return found

    def _gpg(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--pinentry-mode", "loopback"]
        return subprocess.run([*command, *arguments], check=True, capture_output=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(tmp_path)
    monkeypatch.setattr(repository, "_dearmored", lambda: found.keys)
    yield found
    subprocess.run(["gpgconf", "--homedir", found.home, "--kill", "all"], check=False)


@NEEDS_GPG
def test_a_package_of_signed_lists(server: Server, tmp_path: Path) -> None:
    found = server.open(tmp_path)
    assert not found.lists_are_new()

    found.update()

    assert found.lists_are_new()
    assert found.show("a")["Version"] == "1"
    assert found.show("b") == {}
    versions = found.closure(["a"])
    [deb] = found.download_all(versions, tmp_path)
    assert (deb.name, deb.read_bytes()) == ("a_1_amd64.deb", DEB)


@NEEDS_GPG
def test_lists_that_others_have_signed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()

    with pytest.raises(ImageError, match="InRelease: Debian has not signed it"):
        server.open(tmp_path).update()


@NEEDS_GPG
def test_lists_that_were_changed_after_signing(server: Server, tmp_path: Path) -> None:
    path = server.suite / "InRelease"
    path.write_text(path.read_text().replace("Origin: Debian", "Origin: Other"))

    with pytest.raises(ImageError, match="Debian has not signed it"):
        server.open(tmp_path).update()


@NEEDS_GPG
def test_lists_that_are_not_signed(server: Server, tmp_path: Path) -> None:
    shutil.copy(server.suite / "Release", server.suite / "InRelease")

    with pytest.raises(ImageError, match="Debian has not signed it"):
        server.open(tmp_path).update()


@NEEDS_GPG
def test_text_before_the_signed_text_counts_for_nothing(server: Server, tmp_path: Path) -> None:
    path = server.suite / "InRelease"
    path.write_text("SHA256:\n 00 1 main/binary-amd64/Packages.gz\n\n" + path.read_text())
    (server.suite / "main/binary-amd64/Packages.gz").write_bytes(gzip.compress(b"Package: evil"))

    found = server.open(tmp_path)
    found.update()

    assert found.show("a") and not found.show("evil")


@NEEDS_GPG
def test_lists_that_are_too_old(server: Server, tmp_path: Path) -> None:
    server.write(until="Sat, 08 Jan 2022 00:00:00 UTC")

    with pytest.raises(ImageError, match="its lists were valid until 2022-01-08"):
        server.open(tmp_path).update()


@NEEDS_GPG
def test_lists_of_another_release(server: Server, tmp_path: Path) -> None:
    server.write(bookworm="trixie")

    with pytest.raises(ImageError, match="the server has another release there"):
        server.open(tmp_path).update()


@NEEDS_GPG
def test_a_list_that_is_not_the_signed_one(server: Server, tmp_path: Path) -> None:
    path = server.suite / "main/binary-amd64/Packages.xz"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)

    with pytest.raises(ImageError, match="does not match its SHA-256"):
        server.open(tmp_path).update()


@NEEDS_GPG
@pytest.mark.parametrize("data", [DEB[:-1] + b"x", DEB[:-1], DEB + b"x", None])
def test_a_package_that_is_not_the_listed_one(
    server: Server, tmp_path: Path, data: bytes | None
) -> None:
    found = server.open(tmp_path)
    found.update()
    path = server.root / "pool/a.deb"
    path.unlink() if data is None else path.write_bytes(data)

    with pytest.raises(ImageError):
        found.download("a", tmp_path)
    assert not list(tmp_path.glob("*.deb"))


@NEEDS_GPG
def test_a_package_outside_of_the_mirror(server: Server, tmp_path: Path) -> None:
    server.packages = server.packages.replace("pool/a.deb", "../../etc/passwd")
    server.write()
    found = server.open(tmp_path)
    found.update()

    with pytest.raises(ImageError, match="its place on the server is invalid"):
        found.download("a", tmp_path)


@NEEDS_APT
def test_a_flat_repository_that_the_user_trusts(tmp_path: Path) -> None:
    flat = Flat(tmp_path / "flat")
    deb = flat.add("b", {"bin/b": b"x"}, version="1:2-1")
    found = Repository(tmp_path / "lists", DEBIAN_12, sources=flat.sources)
    found.prepare()

    found.update()

    assert found.download("b", tmp_path).read_bytes() == deb.read_bytes()
    assert (tmp_path / "b_1%3a2-1_amd64.deb").exists()


def test_the_keys_that_come_with_ringlet_are_keys() -> None:
    data = repository._dearmored()

    assert len(data) > 10_000
    assert data[0] >> 6 in (2, 3)  # the start of an OpenPGP packet


def test_without_gpgv_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ImageError, match=r"gpgv is not installed.*install gpgv"):
        Repository(tmp_path / "lists", DEBIAN_12).prepare()


def test_no_network(tmp_path: Path) -> None:
    sources = "Types: deb\nURIs: http://127.0.0.1:9\nSuites: x\nComponents: main\nTrusted: yes\n"
    found = Repository(tmp_path / "lists", DEBIAN_12, sources=sources)
    found.prepare()

    with pytest.raises(ImageError, match="the network does not reach Debian"):
        found.update()
