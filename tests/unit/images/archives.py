"""Archives, OCI layouts and file systems made for a test, and what e2fsprogs says of an image."""

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

NEEDS_E2FSPROGS = pytest.mark.skipif(
    shutil.which("debugfs") is None, reason="this host has no e2fsprogs"
)
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def member(name: str, content: bytes = b"", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive: a file unless `changes` say otherwise."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def folder(name: str, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a directory of an archive."""
    return member(name, type=tarfile.DIRTYPE, **{"mode": 0o755, **changes})


def link(name: str, target: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    """Return a link of an archive."""
    kind = tarfile.LNKTYPE if hard else tarfile.SYMTYPE
    return member(name, type=kind, linkname=target)


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive of these members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Layout:
    """An OCI layout in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, Any]] = []

    def blob(self, content: bytes, kind: str = "") -> dict[str, Any]:
        """Add a blob and return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content), "mediaType": kind}

    def path(self, descriptor: Mapping[str, Any]) -> Path:
        """Return the path of a blob."""
        return self.directory / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def image(
        self,
        layers: Iterable[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        tag: str = "",
        architecture: str = "amd64",
    ) -> dict[str, Any]:
        """Add an image and return the descriptor of its manifest."""
        about = {"os": "linux", "architecture": architecture, "config": dict(config or {})}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(about).encode()),
            "layers": [self.blob(gzip.compress(layer)) for layer in layers],
        }
        found = self.blob(json.dumps(manifest).encode(), MANIFEST)
        found["platform"] = {"os": "linux", "architecture": architecture}
        if tag:
            found["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append(found)
        return found

    def write(self) -> Path:
        """Write the index and return the directory."""
        content = {"schemaVersion": 2, "manifests": self.manifests}
        (self.directory / "index.json").write_text(json.dumps(content))
        return self.directory


def check(image: Path) -> None:
    """Fail if e2fsck finds anything wrong."""
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def ask(image: Path, *requests: str) -> str:
    """Return what debugfs prints about `image`."""
    done = subprocess.run(
        ["debugfs", "-f", "-", image], input="\n".join(requests) + "\n", capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return "".join(
        line for line in done.stdout.splitlines(keepends=True) if not line.startswith("debugfs: ")
    )


def content(image: Path, path: str) -> bytes:
    """Return the contents of a file in the file system."""
    command = ["debugfs", "-R", f"cat {path}", str(image)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def listed(image: Path, path: str = "/") -> list[str]:
    """Return the names in a directory of the file system, sorted."""
    names = [line.split("/")[5] for line in ask(image, f"ls -p {path}").splitlines() if "/" in line]
    return sorted(name for name in names if name not in (".", "..", "lost+found"))
