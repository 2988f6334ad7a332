"""What a machine asks of the agent in its guest: commands and files.

`ringlet.control.agent` serves it.  `connect` is the one place where a machine gets its agent.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ringlet.control.board import Board
from ringlet.control.spec import MachineSpec


class Result(Protocol):
    """The end of a command: its output, its exit status, and its duration in seconds."""

    @property
    def stdout(self) -> bytes: ...
    @property
    def stderr(self) -> bytes: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def duration(self) -> float: ...


class Process(Protocol):
    """A command that runs in the guest."""

    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self, signal: int = 9) -> None: ...


class Files(Protocol):
    """The guest's files, by absolute path."""

    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes | str) -> None: ...
    def list(self, path: str) -> Sequence[Any]: ...
    def copy_in(self, source: str | Path, target: str) -> None: ...
    def copy_out(self, source: str, target: str | Path) -> None: ...


class Agent(Protocol):
    """The host's end of the agent in a guest."""

    @property
    def files(self) -> Files: ...
    def run(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str | None = None,  # noqa: A002 - subprocess calls it so
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        check: bool = False,
        on_stdout: Callable[[bytes], object] | None = None,
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> Result: ...
    def popen(self, argv: Sequence[str], **options: Any) -> Process: ...


def connect(spec: MachineSpec, board: Board) -> Agent | None:
    """Return the agent of a machine that is about to run; None if its guest has none."""
    return None
