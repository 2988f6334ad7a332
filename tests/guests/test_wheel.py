"""What `./dev wheels` makes: a wheel that needs no compiler, and an archive of the sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ringlet.images.busybox import is_static
from tests.repo.layers import ROOT

PATIENCE = 300
PROGRAMS = {
    "ringlet/guest/agent": True,
    "ringlet/direct/zygote": True,
    "ringlet/devices/backends/network/slirp": False,
    "ringlet/devices/backends/network/keeper": False,
}
"""The programs in C, and whether they are static."""
UNREACHED = re.compile(r"NewConnectionError|Temporary failure|Network is unreachable|timed out")

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        Path(sys.prefix) != ROOT / ".venv", reason="wheels are made of what ./dev test has built"
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel and the archive of the sources."""
    directory = tmp_path_factory.mktemp("wheels")
    done = subprocess.run(
        [ROOT / "dev", "wheels", directory], capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    if done.returncode and UNREACHED.search(done.stdout + done.stderr):
        pytest.skip("no PyPI here")
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def wheel(made: Path) -> Path:
    (found,) = made.glob("*.whl")
    return found


def test_one_wheel_is_for_all_versions_and_distributions(wheel: Path) -> None:
    version, abi, platform = wheel.stem.split("-")[2:]

    assert (version, abi) == ("cp311", "abi3")
    assert "manylinux_2_34_x86_64" in platform.split(".")


def test_wheel_has_the_programs_and_nothing_of_the_tests(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modes = {n: archive.getinfo(n).external_attr >> 16 & 0o777 for n in PROGRAMS}
        for name in PROGRAMS:
            archive.extract(name, tmp_path)
    modules = [name for name in names if name.endswith(".so")]

    assert modes == dict.fromkeys(PROGRAMS, 0o755)
    assert {n: is_static(tmp_path / n) for n in PROGRAMS} == PROGRAMS
    assert len(modules) > 80
    assert [name for name in modules if not name.endswith(".abi3.so")] == []
    assert {name.split("/")[0] for name in names} == {
        "ringlet", "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }  # fmt: skip


def test_wheel_installs_and_runs_a_guest_without_a_compiler(
    wheel: Path, tmp_path: Path, kernel: object
) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=PATIENCE)
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    environment["PATH"] = str(venv / "bin")  # no compiler, nor any program of the host's

    installed = subprocess.run(
        ["pip", "install", "--only-binary", ":all:", wheel], env=environment, cwd=tmp_path,
        executable=venv / "bin/pip", capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    if installed.returncode and UNREACHED.search(installed.stdout + installed.stderr):
        pytest.skip("no PyPI here")
    done = subprocess.run(
        ["ringlet", "run", "busybox", "uname", "-a"], env=environment, cwd=tmp_path,
        executable=venv / "bin/ringlet", capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip

    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"Linux debian 6\.\S+ .* x86_64 GNU/Linux$", done.stdout)


def test_archive_of_the_sources_is_the_checkout_and_configures(made: Path, tmp_path: Path) -> None:
    """Configuring looks for every source; compiling them again would take minutes."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a git checkout makes an archive")
    (found,) = made.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        archive.extractall(tmp_path, filter="data")
    (top,) = tmp_path.iterdir()
    inside = {str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()}
    tracked = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "-z", "HEAD"], cwd=ROOT, capture_output=True,
        text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    setup = [sys.executable, "-m", "mesonbuild.mesonmain", "setup", "build"]

    configured = subprocess.run(
        setup, cwd=top, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip

    assert inside - {"PKG-INFO"} == {name for name in tracked if name}
    assert configured.returncode == 0, configured.stdout
