"""A machine in the background whose image another process makes at the same time."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 20


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cache that another process changes all the time, and a place for machines."""
    (tmp_path / "runtime").mkdir(0o700)
    (tmp_path / "cache" / "ringlet").mkdir(parents=True)
    with (tmp_path / "cache" / "ringlet" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {
            **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        }  # fmt: skip


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def has_ended(pid: int) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_anothers_build_is_told_and_leaves_nothing_at_a_signal(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "ringlet", "run", "-d", "--name", "box", "debian"],
        env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    assert command.stderr is not None
    with command:
        said = command.stderr.readline()
        machine = child_of(command.pid)
        command.send_signal(number)
        status = command.wait(PATIENCE)
    ended = has_ended(machine)
    if not ended:
        os.kill(machine, signal.SIGKILL)

    assert said == "ringlet: waiting for another ringlet process that is fetching\n"
    assert (status, ended) == (128 + number, True)
    assert [*(tmp_path / "runtime" / "ringlet" / "machines").iterdir()] == []
