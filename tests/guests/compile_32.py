"""Compiles static programs for 32-bit processors, with the host's gcc and Debian's C library."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ringlet.images.release import DEBIAN_12_I386
from tests.guests.packaged import unpacked

_PACKAGES = ("libc6-dev", "libgcc-12-dev", "linux-libc-dev")


class Compiler:
    """A compiler for both sizes; for 32 bits its library is below `directory`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("the programs are compiled on this host: install gcc and libc6-dev")
        self._library = unpacked(_PACKAGES, directory, DEBIAN_12_I386) / "usr"

    def build(self, bits: int, target: Path, sources: Sequence[Path], *options: str) -> Path:
        """Compile a program."""
        done = subprocess.run(
            ["gcc", f"-m{bits}", "-static", *(self._for_32() if bits == 32 else []), *options,
             *map(str, sources), "-o", str(target), "-lm"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"gcc cannot build {target.name}:\n{done.stderr}")
        return target

    def _for_32(self) -> list[str]:
        own = subprocess.run(
            ["gcc", "-print-file-name=include"], capture_output=True, text=True, check=True
        ).stdout.strip()
        found = ["-nostdinc", "-isystem", own]
        for headers in ("include/i386-linux-gnu", "include"):
            found += ["-isystem", str(self._library / headers)]
        for libraries in ("lib/i386-linux-gnu", "lib/gcc/i686-linux-gnu/12"):
            found += ["-B", f"{self._library / libraries}/", "-L", str(self._library / libraries)]
        return found
