"""The options of a command that runs to its end, wherever it is started from."""

from collections.abc import Mapping
from typing import TypedDict

from ringlet.control.agent.command import OnOutput
from ringlet.control.agent.process import Text


class RunOptions(TypedDict, total=False):
    """The options of `Machine.run`; the names are those of `subprocess.run`.

    `input` is what the command reads; `env` has variables, `cwd` is its directory, `user` a name or
    a number, perhaps with ":GROUP".  After `timeout` seconds it is killed.  With `check`, a status
    other than 0 is an error.  `on_stdout` and `on_stderr` get output as it comes.
    """

    input: str | bytes | None
    env: Mapping[str, str] | None
    cwd: Text | None
    user: str | int | None
    timeout: float | None
    check: bool
    on_stdout: OnOutput | None
    on_stderr: OnOutput | None


class AgentOptions(RunOptions, total=False):
    """What `Agent.run` takes besides: a terminal, and where its errors and variables go."""

    tty: bool
    size: tuple[int, int] | None
    merge: bool
    only_env: bool


def require_known(options: Mapping[str, object]) -> None:
    """Raise TypeError for an option that there is not, as Python does for a parameter."""
    known = AgentOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(f"run() got an unexpected keyword argument {name!r}")
