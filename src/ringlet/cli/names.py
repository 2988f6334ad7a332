"""The options of the commands for machines with names; their work is in other modules."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from ringlet import config
from ringlet.cli.typed import as_typed
from ringlet.errors import AgentError, ConfigError, GuestEnded

_NAME: Final[Any] = typer.Argument(metavar="NAME", help="The machine's name.")
_NAMES: Final[Any] = typer.Argument(metavar="NAME...", help="The machines' names.")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise another error for an ended guest: typer takes an EOFError for the end of its input."""
    try:
        yield
    except GuestEnded as error:
        raise AgentError(str(error)) from None


def ps(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="List those that have ended, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, for other programs.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the names alone.")] = False,
) -> int:
    """List the machines that have names: those in the background, and those with --name."""
    from ringlet.cli.machines import run_ps

    if as_json and quiet:
        raise ConfigError(f"--json and {as_typed(context, '-q')}: give one of them")
    return run_ps(everything=everything, as_json=as_json, quiet=quiet)


def logs(
    name: Annotated[str, _NAME],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the machine ends.")
    ] = False,
    tail: Annotated[
        int | None,
        typer.Option("--tail", "-n", metavar="N", min=0, help="Begin with the last N lines."),
    ] = None,
) -> int:
    """Print what a machine's guest has printed: its last 8 to 16 MiB."""
    from ringlet.cli.machines import run_logs

    return run_logs(name, follow=follow, lines=tail)


def exec_(
    context: typer.Context,
    name: Annotated[str, _NAME],
    command: Annotated[list[str], typer.Argument(help="The command.")],
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Standard input is the command's.")
    ] = False,
    terminal: Annotated[
        bool, typer.Option("-t", "--tty", help="Give it a terminal, and this one's keys.")
    ] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(config.ENV.flag, "--env", metavar="NAME=VALUE", help=config.ENV.help),
    ] = None,
    cwd: Annotated[
        str, typer.Option("-w", "--workdir", metavar="DIR", help=config.WORKDIR.help)
    ] = "",
    user: Annotated[
        str, typer.Option("-u", "--user", metavar="USER[:GROUP]", help="Run it as this user.")
    ] = "",
) -> int:
    """Run a command in a machine; the exit status is the command's.

    Options end at the machine's name.
    """
    from ringlet.cli.executing import run_exec
    from ringlet.control.parts import variables

    if cwd and not cwd.startswith("/"):
        raise ConfigError(f"{as_typed(context, '-w')} {cwd}: give an absolute path of the guest")
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise ConfigError(f"no command; ringlet shell {name} gives a shell")
    with _told():
        return run_exec(
            name, words, env=variables(env, as_typed(context, config.ENV.flag)), cwd=cwd, user=user,
            terminal=terminal, reads=interactive,
        )  # fmt: skip


def shell(
    name: Annotated[str, _NAME],
    user: Annotated[
        str, typer.Option("-u", "--user", metavar="USER[:GROUP]", help="Be this user.")
    ] = "",
) -> int:
    """Open a shell in a machine, on this terminal or with standard input."""
    import os

    from ringlet.cli.executing import SHELL, run_exec

    with _told():
        return run_exec(name, SHELL, user=user, terminal=os.isatty(0), reads=True)


def cp(
    source: Annotated[str, typer.Argument(help="A file or directory: PATH, or NAME:PATH.")],
    target: Annotated[str, typer.Argument(help="Its copy, or a directory for it.")],
) -> int:
    """Copy a file or a tree into a machine or out of it, as cp -a does: PATH NAME:PATH."""
    from ringlet.cli.machines import run_cp

    with _told():
        return run_cp(source, target)


def stop(
    context: typer.Context,
    names: Annotated[list[str], _NAMES],
    timeout: Annotated[
        str, typer.Option("-t", "--time", metavar="TIME", help="Cut the power after this time.")
    ] = "10s",
) -> int:
    """Let machines turn themselves off, or cut their power."""
    from ringlet.cli.machines import run_stop

    if timeout in ("0", "0s"):
        return run_stop(names, 0.0)
    return run_stop(names, config.parse_seconds(timeout, as_typed(context, "-t")))


def kill(names: Annotated[list[str], _NAMES]) -> int:
    """Cut the power of machines."""
    from ringlet.cli.machines import run_kill

    return run_kill(names)


def rm(
    names: Annotated[list[str], _NAMES],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Cut the power of those that run.")
    ] = False,
) -> int:
    """Remove what is left of machines that have ended: their logs and exit statuses."""
    from ringlet.cli.machines import run_rm

    return run_rm(names, force=force)
