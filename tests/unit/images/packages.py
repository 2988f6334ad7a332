"""Debian packages made on the spot, and a repository of them in a directory."""

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

NEEDS_APT = pytest.mark.skipif(
    not all(map(shutil.which, ("apt-get", "dpkg-deb"))), reason="this host has no apt"
)


class Repository:
    """A directory that apt takes packages from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sources = (
            f"Types: deb\nURIs: file:{directory}\nSuites: ./\nTrusted: yes\nArchitectures: amd64\n"
        )
        self._index: dict[str, str] = {}
        directory.mkdir()
        self._write()

    def add(
        self, name: str, files: Mapping[str, bytes], depends: str = "", version: str = "1.0-1"
    ) -> Path:
        """Make a package and list it; a package of the same name is replaced."""
        tree = self.directory / "tree"
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: N <n@n>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Description: for a test\n"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        deb = self.directory / f"{name}_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "-Znone", "-b", tree, deb], check=True, capture_output=True)
        shutil.rmtree(tree)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        self._index[name] = (
            f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n"
        )
        self._write()
        return deb

    def _write(self) -> None:
        (self.directory / "Packages").write_text("".join(self._index.values()))


def names(directory: Path) -> list[str]:
    """Return what is in `directory`, sorted."""
    return sorted(path.name for path in directory.iterdir())
