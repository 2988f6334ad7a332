# ruff: noqa: INP001 - nothing imports this
"""Records docs/session.svg, the README's picture: `./dev run python -m docs.picture DIRECTORY`.

It shows commands that are run for it, with what they printed and nothing else; the lines appear
when they appeared then.  DIRECTORY holds the sources of Lua 5.4, whose build is
the work of the session.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).with_name("session.svg")
TYPED: Final = (
    "ls /dev/kvm",
    "ringlet run --root / uname -r",
    'time ringlet run --root / -v "$PWD":/mnt -w /mnt make linux test',
    "src/lua -e 'print(_VERSION, 6 * 7)'",
)
PROMPT: Final = b"$ "
COLUMNS: Final = 112
SHOWN_LINES: Final = 22
_CONTROL: Final = re.compile(r"\x1b\[[\d;?]*[A-LN-Za-ln-z]")

Line = tuple[float, bytes]
"""When a line was complete, in seconds, and its text."""


def session(directory: Path) -> list[Line]:
    """Run each command by a shell of its own, in a copy of `directory`, on one terminal."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, directory.name)
        shutil.copytree(directory, copy)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        began = time.monotonic()
        for command in TYPED:
            lines.append((time.monotonic() - began, PROMPT + command.encode()))
            with subprocess.Popen(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, cwd=copy, env=dict(os.environ, PATH=path),
            ) as shell:  # fmt: skip
                assert shell.stdout is not None
                lines += [(time.monotonic() - began, line.rstrip(b"\n")) for line in shell.stdout]
    return lines


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
