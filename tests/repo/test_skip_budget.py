"""The hook of tests/conftest.py that fails a run with too many skipped tests."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWO_SKIPPED = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="lacks a tool")
def test_one():
    pass

def test_two():
    pytest.skip("lacks another")
"""


def _run(folder: Path, *options: str, ci: str = "", budget: str = "1") -> tuple[int, str]:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "pytest.ini").write_text(f"[pytest]\nskip_budget = {budget}\n")
    (folder / "test_it.py").write_text(TWO_SKIPPED)
    environment = {k: v for k, v in os.environ.items() if k not in {"CI", "PYTEST_ADDOPTS"}}
    environment |= {"CI": ci} if ci else {}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *options, str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_developer_may_skip_any_number(tmp_path: Path) -> None:
    status, output = _run(tmp_path)
    assert (status, "1 passed, 2 skipped" in output) == (0, True)


def test_ci_fails_beyond_the_budget_and_says_why(tmp_path: Path) -> None:
    status, output = _run(tmp_path, ci="1")
    assert status == 1
    assert "2 tests were skipped, 1 may be" in output
    assert "lacks another" in output


def test_ci_passes_within_the_budget(tmp_path: Path) -> None:
    assert _run(tmp_path, ci="1", budget="2")[0] == 0


@pytest.mark.parametrize(("most", "status"), [("2", 0), ("1", 1), ("0", 1)])
def test_the_option_states_another_budget(tmp_path: Path, most: str, status: int) -> None:
    assert _run(tmp_path, "--skip-budget", most)[0] == status
