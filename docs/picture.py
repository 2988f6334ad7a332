# ruff: noqa: INP001 - nothing imports this
"""Records docs/session.svg, the README's picture: `./dev run python -m docs.picture DIRECTORY`.

It shows a session of a shell that is run for it, with what was printed there and nothing else;
the lines appear when they appeared then.  DIRECTORY holds the sources of Lua 5.4, whose build is
the work of the session.
"""

import io
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).with_name("session.svg")
TYPED: Final = (
    "ls /dev/kvm",
    "ringlet run --root / uname -r",
    'time ringlet run --root / -v "$PWD":/mnt -w /mnt make linux test | grep -v "^make"',
    "src/lua -e 'print(_VERSION, 6 * 7)'",
)
PROMPT: Final = b"$ "
ROWS, COLUMNS = 24, 112
SHOWN_LINES: Final = 22
PATIENCE_S: Final = 600
_CONTROL: Final = re.compile(r"\x1b\[[\d;?]*[A-LN-Za-ln-z]")

Line = tuple[float, bytes]
"""When a line was complete, in seconds, and its text."""


def session(directory: Path) -> list[Line]:
    """Run the shell in a copy of `directory`; type each command after a prompt."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, directory.name)
        shutil.copytree(directory, copy)
        user, fd = os.openpty()
        termios.tcsetwinsize(fd, (ROWS, COLUMNS))
        environment = dict(
            os.environ, PS1=PROMPT.decode(), TERM="dumb",
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        )  # fmt: skip
        program = ["bash", "--norc", "--noediting", "-i"]
        with subprocess.Popen(
            program, stdin=fd, stdout=fd, stderr=fd, cwd=copy, env=environment,
            start_new_session=True,
        ):  # fmt: skip
            os.close(fd)
            terminal = Terminal(user)
            for command in TYPED:
                terminal.until_prompt()
                os.write(user, command.encode() + b"\n")
            terminal.until_prompt()
            os.write(user, b"exit\n")
        os.close(user)
    return terminal.lines


class Terminal:
    """Reads what is shown, and notes when each line was complete."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._part = b""
        self._began = time.monotonic()
        self.lines: list[Line] = []

    def until_prompt(self) -> None:
        """Read until the shell asks for a command.  Raises SystemExit."""
        end = time.monotonic() + PATIENCE_S
        while self._part != PROMPT:
            if not select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise SystemExit(f"no prompt after {self.lines[-3:]!r}")
            *whole, self._part = (self._part + os.read(self._fd, 4096)).split(b"\n")
            self.lines += [(time.monotonic() - self._began, line) for line in whole]


def draw(lines: list[Line]) -> str:
    """Return the lines as SVG; a long output is shown by its first and last lines."""
    texts = [_CONTROL.sub("", line.decode()).replace("\r", "") for _, line in lines]
    shown = [(when, text) for (when, _), text in zip(lines, texts, strict=True) if text]
    if len(shown) > SHOWN_LINES:
        cut = SHOWN_LINES // 2
        left_out = len(shown) - SHOWN_LINES + 1
        between = (shown[cut][0], f"  ... {left_out} more lines ...")
        shown = [*shown[:cut], between, *shown[cut + left_out :]]
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False
    )
    for _, text in shown:
        console.print(_styled(text), no_wrap=True, overflow="ellipsis")
    svg = console.export_svg(title="a machine without KVM", unique_id="session")
    for number, (when, _) in enumerate(shown):
        svg = svg.replace(
            f'clip-path="url(#session-line-{number})"',
            f'clip-path="url(#session-line-{number})" style="animation-delay:{when:.1f}s"',
        )
    return svg.replace("</style>", _APPEARS, 1)


_APPEARS: Final = """
    @keyframes appear { from { visibility: hidden } to { visibility: visible } }
    .session-matrix text { animation: appear .1s backwards }
    </style>"""


def _styled(text: str) -> Text:
    if text.startswith(PROMPT.decode()):
        return Text.assemble(("$ ", "bold green"), (text.removeprefix(PROMPT.decode()), "bold"))
    return Text(text)


if __name__ == "__main__":
    PICTURE.write_text(draw(session(Path(sys.argv[1]).resolve())), encoding="utf-8")
