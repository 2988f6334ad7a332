"""ruff and mypy report no errors."""

import subprocess
import sys

import pytest

from tests.repo.layers import ROOT


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_ruff_reports_nothing() -> None:
    done = run("ruff", "check", "--no-cache", "--output-format=concise", ".")

    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(600)
def test_mypy_reports_nothing() -> None:
    done = run("mypy")

    assert done.returncode == 0, done.stdout
