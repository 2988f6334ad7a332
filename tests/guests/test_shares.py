"""Directories of the host at the places that a user names, as `ringlet run -v` mounts them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringlet.images.busybox import find_busybox

PATIENCE = 90
"""Seconds; a guest takes one or two on an idle machine."""

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("kernel")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that has busybox, and a link as Debian's /var/run."""
    root = tmp_path_factory.mktemp("root")
    (root / "bin").mkdir()
    (root / "var").mkdir()
    shutil.copy(find_busybox(), root / "bin/busybox")
    for name in ("sh", "touch", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "var/run").symlink_to("/run")
    return root


def run(tmp_path: Path, places: list[str], *guest: str) -> list[list[str]]:
    """Return what each share has after a guest has made a file at each place."""
    sources = [tmp_path / str(number) for number in range(len(places))]
    shares: list[str] = []
    for source, place in zip(sources, places, strict=True):
        source.mkdir()
        shares += ["-v", f"{source}:{place}"]
    script = "; ".join(f"touch {place}/result" for place in places)
    done = subprocess.run(
        [sys.executable, "-m", "ringlet", "run", *shares, *guest, "sh", "-c", script],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    return [sorted(path.name for path in source.iterdir()) for source in sources]


@pytest.mark.parametrize(
    "places",
    [["/tmp/out", "/run/x", "/var/run/y", "/dev/shm", "/mnt"], ["/tmp", "/var/tmp"]],
    ids=["below", "whole"],
)
def test_nothing_that_the_guest_mounts_hides_a_share(
    tmp_path: Path, root: Path, places: list[str]
) -> None:
    found = run(tmp_path, places, "--root", str(root), "--")

    assert found == [["result"]] * len(places)


def test_the_smallest_guest_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    places = ["/tmp", "/run/x", "/dev/shm"]

    assert run(tmp_path, places, "busybox") == [["result"]] * len(places)
