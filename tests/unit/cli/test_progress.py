"""The progress line."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import ringlet
from ringlet.cli import progress
from ringlet.cli.progress import Progress
from ringlet.cli.slow_steps import SlowSteps

ROOT = Path(ringlet.__file__).parents[1]
SHOW = """
import os, sys, threading, time
from ringlet.cli.progress import Progress
with Progress("first [b]") as progress:
    time.sleep(0.2)
    progress.update("second" * {times})
    time.sleep(0.2)
    guest = threading.Thread(target=progress.before(lambda data: os.write(2, data)), args=(b"G",))
    guest.start()
    guest.join()
    progress.before(lambda data: os.write(2, data))(b"H")
"""


def shown(script: str, *, raw: bool = False) -> bytes:
    """Return a script's output on its standard error, a terminal of 40 columns."""
    user, fd = pty.openpty()
    termios.tcsetwinsize(fd, (24, 40))
    if raw:
        attributes = termios.tcgetattr(fd)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", script], stderr=fd, env=environment) as process:
        os.close(fd)
        seen = b""
        try:
            while data := os.read(user, 4096):
                seen += data
        except OSError:  # how a terminal's other side ends
            os.close(user)
        assert process.wait(20) == 0, seen
    return seen


def test_it_is_shown_and_gone_before_the_guests_first_byte() -> None:
    seen = shown(SHOW.format(times=1))
    before, after = seen.split(b"G")

    assert before.startswith(b"\x1b[?25l")
    assert b"first [b]" in before
    assert b"second" in before
    assert before.endswith(b"\r\n\x1b[?25h\r\x1b[1A\x1b[2K"), "erased, and the cursor is there"
    assert after == b"H"


def test_it_is_one_line_however_narrow_the_terminal() -> None:
    seen = shown(SHOW.format(times=100), raw=True).partition(b"G")[0]
    texts = re.sub(r"\x1b\[[?\d]*\w|\r", "\n", seen.decode()).split("\n")

    assert seen.count(b"\n") == 1
    assert max(len(text) for text in texts) == 40


def test_without_a_terminal_there_is_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(times=1)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"},
        check=True,
    )

    assert (done.stdout, done.stderr) == (b"", b"GH")


def test_without_a_terminal_steps_that_take_long_are_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SlowSteps", partial(SlowSteps, first=0.2, again=0.2))
    with Progress("starting") as shown:
        shown.step("fetching")
        time.sleep(0.7)
        shown.step("unpacking")
        time.sleep(0.5)
        shown.end_steps()
        shown.update("starting")

    assert capfd.readouterr() == ("", "ringlet: fetching\nringlet: unpacking\n")


def test_without_a_terminal_quick_steps_are_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("starting") as shown:
        shown.step("fetching")
        shown.end_steps()
        shown.step("again")

    assert capfd.readouterr() == ("", "")
    assert "ringlet-steps" not in [thread.name for thread in threading.enumerate()]


def test_closed_standard_error_is_no_terminal() -> None:
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c"]
    script = "from ringlet.cli.progress import Progress\nwith Progress('x'): pass"
    done = subprocess.run(
        [*shell, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )

    assert done.returncode == 0


def test_a_line_that_was_never_shown_changes_no_sink() -> None:
    def sink(data: bytes) -> None: ...

    assert Progress("x").before(sink) is sink
