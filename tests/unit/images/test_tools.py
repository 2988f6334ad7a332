"""The host's tools: their output, and that none is left running."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ringlet.images.tools import output, started


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_output_and_status_are_returned(tmp_path: Path) -> None:
    script = "pwd; echo $X; echo wrong >&2; cat; exit 3"
    done = output(["sh", "-c", script], 20, directory=tmp_path, environment={"X": "x"})

    assert (done.stdout, done.stderr) == (f"{tmp_path}\nx\n", "wrong\n")
    assert done.returncode == 3


def test_output_that_is_not_text_is_returned() -> None:
    assert output(["printf", r"a\377"], 20).stdout == "a\ufffd"


def test_a_tool_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        output(["/nonexistent"], 20)


def test_a_tool_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        output(["sleep", "60"], 0.05)

    assert time.monotonic() - began < 20


def test_a_process_does_not_outlive_the_body() -> None:
    with started(["sleep", "60"]) as process:
        running = process.poll()

    assert running is None
    assert gone(process.pid)


def test_a_process_whose_start_is_interrupted_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        # The main thread gets its exception while this thread starts the process.
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        made.append(popen(*arguments, **options))  # type: ignore[call-overload]  # as they come
        return made[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output(["sleep", "60"], 20)

    assert gone(made[0].pid)
