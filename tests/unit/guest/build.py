"""Builds the agent of the checkout as meson does, or with gcc's sanitizers and a C library."""

import re
import subprocess
from pathlib import Path

from tests.repo.layers import ROOT

SOURCE = ROOT / "src" / "ringlet" / "guest"
HERE = Path(__file__).parent


def _lists() -> list[list[str]]:
    """Return the lists in meson.build: sources, options, arguments of gcc and of the linker."""
    text = (SOURCE / "meson.build").read_text()
    return [re.findall(r"'([^']+)'", part) for part in re.findall(r"\[([^\]]+)\]", text)]


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def build_as_meson(to: Path) -> Path:
    """Build the agent itself, with warnings as errors."""
    sources, _, compiling, linking = _lists()
    program = to / "agent"
    _run(["gcc", "-Wall", "-Wextra", "-Werror", *compiling, *(SOURCE / name for name in sources),
          "-o", program, *linking])  # fmt: skip
    return program


def build_with_sanitizers(to: Path, *, harmless: bool) -> Path:
    """Build it for a host with a C library.

    `harmless`: it starts no programs and touches no files, so that any request may be sent to it.
    """
    replaced = {"start.c"}
    mine = ["hosted.c"]
    if harmless:
        replaced |= {"spawn.c", "program.c", "users.c", "files.c", "tree.c", "machine.c"}
        mine += ["harmless.c"]
    sources = [SOURCE / name for name in _lists()[0] if name not in replaced]
    program = to / "agent-checked"
    _run(["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-ffreestanding",
          "-fno-strict-aliasing", "-DRINGLET_HOSTED", f"-I{SOURCE}",
          "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
          *sources, *(HERE / name for name in mine), "-o", program])  # fmt: skip
    return program
