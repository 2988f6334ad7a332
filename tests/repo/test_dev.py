"""The script `dev` in a checkout whose pip is a false one."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repo.layers import ROOT

PATIENCE = 20
PIP = """#!/bin/sh
mkdir busy || exit 1
touch begun
while ! [ -e go ]; do sleep 0.02; done
rmdir busy
echo done >>installs
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout whose build waits for the file `go`, and fails if two build at once."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "pip").write_text(PIP)
    (programs / "pip").chmod(0o755)
    shutil.copy(ROOT / "dev", tmp_path)
    for name in ("src", "tests/probes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "meson.build").touch()
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["one"]\n')
    (tmp_path / ".venv" / "build-requirements").write_text("one\n")
    return tmp_path


def dev(checkout: Path) -> "subprocess.Popen[str]":
    with (checkout / "errors").open("a") as errors:
        return subprocess.Popen(
            [checkout / "dev", "run", "echo", "ran"], cwd=checkout, text=True,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip


def becomes_true(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_second_waits_for_the_build_of_the_first_and_says_so(checkout: Path) -> None:
    first = dev(checkout)
    assert becomes_true((checkout / "begun").exists)
    second = dev(checkout)
    waits = becomes_true(
        lambda: "waiting for another ./dev" in (checkout / "errors").read_text()
        or second.poll() is not None
    )
    (checkout / "go").touch()
    said = [process.communicate(timeout=PATIENCE)[0] for process in (first, second)]

    assert waits
    assert said == ["ran\n", "ran\n"], (checkout / "errors").read_text()
    assert (checkout / "errors").read_text().count("waiting for another ./dev") == 1
    assert (checkout / "installs").read_text() == "done\n"


def test_nothing_is_built_or_awaited_if_nothing_has_changed(checkout: Path) -> None:
    (checkout / "go").touch()
    dev(checkout).communicate(timeout=PATIENCE)
    before = (checkout / "errors").read_text()

    said, _ = dev(checkout).communicate(timeout=PATIENCE)

    assert said == "ran\n"
    assert (checkout / "errors").read_text() == before
    assert (checkout / "installs").read_text() == "done\n"
