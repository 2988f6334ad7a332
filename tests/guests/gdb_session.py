"""A machine that waits for gdb, and a real gdb that is connected to it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from tests.unit.cli.test_process import ELSEWHERE

GDB = shutil.which("gdb")
needs_gdb = pytest.mark.skipif(GDB is None, reason="gdb is not installed: apt install gdb")

DONE = "done-marker"


class Session:
    """A machine that `ringlet run` starts with `arguments`, and a gdb.

    gdb has the symbols of `file`; `before` are its commands before it connects.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        file: Path | None,
        where: str = "0",
        before: Sequence[str] = (),
    ) -> None:
        self.machine = subprocess.Popen(
            [sys.executable, "-m", "ringlet", "run", "--gdb", where, "--gdb-wait", *arguments],
            cwd=ELSEWHERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = pipe(self.machine.stderr).readline()
        found = re.search(r"target remote (\S+)", said)
        assert found is not None, said
        self.where = found[1]
        self.gdb = subprocess.Popen(
            [GDB or "gdb", "-q", "-nx", "-iex", "set confirm off", *([str(file)] if file else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.ask("set pagination off")
        self.ask("set print entry-values no")
        for command in before:
            self.ask(command)
        self.ask(f"target remote {self.where}")

    def tell(self, command: str) -> None:
        """Give gdb a command."""
        stdin = pipe(self.gdb.stdin)
        stdin.write(f"{command}\necho {DONE}\\n\n")
        stdin.flush()

    def heard(self) -> str:
        """Return gdb's output up to the end of its last command."""
        lines = []
        for line in pipe(self.gdb.stdout):
            before, marker, _ = line.partition(DONE)
            lines.append(before)
            if marker:
                break
        return "".join(lines)

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.heard()

    def ends(self) -> tuple[str, int]:
        """Return the machine's output and exit status."""
        out, _ = self.machine.communicate(timeout=30)
        return out, self.machine.returncode

    def close(self) -> None:
        for process in (self.gdb, self.machine):
            process.kill()
            process.communicate()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
