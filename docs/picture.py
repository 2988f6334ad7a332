# ruff: noqa: INP001 - nothing imports this
"""Draws docs/debian.svg, the README's picture: `./dev run python -m docs.picture`.

It is of a session that is run for it: `ringlet run debian` on a terminal, with what was printed
there and nothing else.
"""

import io
import os
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).with_name("debian.svg")
COMMAND: Final = ("ringlet", "run", "debian")
TYPED: Final = (
    "uname -a",
    "grep -m1 'model name' /proc/cpuinfo",
    "time sh -c 'seq 1000000 | sha256sum'",
    "exit",
)
PROMPT: Final = b":~# "
ROWS, COLUMNS = 40, 104
PATIENCE_S: Final = 60
# What the guest's shell asks of its terminal (where is the cursor? erase below it) is not text.
_CONTROL: Final = re.compile(r"\x1b\[[\d;]*[A-LN-Za-ln-z]")


def session() -> str:
    """Run the command, type the lines, each after a prompt; return what the terminal showed."""
    user, fd = os.openpty()
    termios.tcsetwinsize(fd, (ROWS, COLUMNS))
    program = [sys.executable, "-m", *COMMAND]
    # Standard error is no terminal, so that nothing moves on this one.
    with subprocess.Popen(program, stdin=fd, stdout=fd, stderr=subprocess.PIPE) as process:
        os.close(fd)
        shown = b""
        for line in TYPED:
            shown += _until(user, PROMPT)
            os.write(user, line.encode() + b"\n")
        shown += _until(user, b"Power down\r\n")
        assert process.stderr is not None
        errors = process.stderr.read().decode()
    os.close(user)
    if process.returncode or errors:
        raise SystemExit(f"ringlet ended with {process.returncode}: {errors}")
    return _CONTROL.sub("", shown.decode()).replace("\r", "")


def _until(fd: int, text: bytes) -> bytes:
    end = time.monotonic() + PATIENCE_S
    shown = b""
    while text not in shown:
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            raise SystemExit(f"no {text!r} after {shown[-300:]!r}")
        shown += os.read(fd, 4096)
    return shown


def draw(shown: str) -> str:
    """Return a terminal's text as SVG."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(Text.assemble(("$ ", "bold green"), (" ".join(COMMAND), "bold")))
    for line in shown.strip().split("\n"):
        prompt, mark, typed = line.partition(PROMPT.decode())
        if mark:
            console.print(Text.assemble((prompt + mark, "bold green"), (typed, "bold")))
        else:
            console.print(Text(line))
    return console.export_svg(title=" ".join(COMMAND), unique_id="debian")


if __name__ == "__main__":
    PICTURE.write_text(draw(session()), encoding="utf-8")
