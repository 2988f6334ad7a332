"""The examples, built with gcc and run as a user would run them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ringlet.vcpu.processor") is None,
    reason="the engine is not in this build",
)


def run_example(name: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    program = folder / f"{name}.elf"
    subprocess.run(
        [
            "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext-segment=0x100000",
            "-Wl,--build-id=none", "-o", program, ROOT / f"examples/{name}/{name}.S",
        ],
        check=True,
    )  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "ringlet", "run", "--bare", program],
        cwd=folder, capture_output=True, timeout=50, check=False,
    )  # fmt: skip


def test_hello_prints_its_line_and_ends_with_its_status(tmp_path: Path) -> None:
    done = run_example("hello", tmp_path)

    assert (done.stdout, done.stderr, done.returncode) == (b"Hello from ring 0\n", b"", 1)


def test_timer_prints_ten_dots(tmp_path: Path) -> None:
    done = run_example("timer", tmp_path)

    assert (done.stdout, done.stderr, done.returncode) == (b"..........\n", b"", 1)
