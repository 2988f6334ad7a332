"""The commands of `ringlet`, their options, and the functions they call."""

import importlib
import importlib.util
from typing import Annotated, Any

import typer

from ringlet.cli import names
from ringlet.cli.groups import Commands
from ringlet.cli.run import RunCommand, run, show_version
from ringlet.cli.streams import emit

_BENCH = "ringlet.cli.bench"
_EXPLAIN = "ringlet.cli.explain"
_IMAGE = "ringlet.cli.image"
_SUMMARY = "Run x86 guests in user space: no VT-x, no kernel module, no guest patches."


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for other programs.")
    ] = False,
) -> int:
    """Check whether this host can run guests, and list what it offers and lacks."""
    from ringlet.cli.doctor import run_doctor

    return run_doctor(as_json=as_json)


def cache_ls() -> int:
    """List what the cache keeps, with sizes."""
    from ringlet.cli.cache import list_cache

    return list_cache()


def cache_prune(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Remove all but images you imported or use.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="List what would be removed, and keep it.")
    ] = False,
) -> int:
    """Remove what no run uses: leftovers, damaged entries, packages, old translations."""
    from ringlet.cli.cache import prune_cache

    return prune_cache(everything=everything, dry_run=dry_run)


def _setup() -> Any:
    """Return what runs the guest that sets up an image."""
    from ringlet.cli.supervise import supervise
    from ringlet.control.setup import setup_runner

    return setup_runner(supervise)


def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=show_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        emit(context.get_help())


def make_app() -> typer.Typer:
    """Return the app with its commands, and with `explain` and `bench` if installed."""
    app = typer.Typer(
        name="ringlet",
        cls=Commands,
        help=_SUMMARY,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_top)
    app.command(cls=RunCommand)(run)
    app.command("exec", context_settings={"allow_interspersed_args": False})(names.exec_)
    for command in (names.shell, names.cp, names.ps, names.logs, names.stop, names.kill, names.rm):
        app.command()(command)
    app.command()(doctor)
    cache = typer.Typer(
        name="cache", cls=Commands, help="List what is kept for later runs, or remove it.",
        no_args_is_help=True,
    )  # fmt: skip
    cache.command("ls")(cache_ls)
    cache.command("prune")(cache_prune)
    app.add_typer(cache, name="cache")
    app.add_typer(importlib.import_module(_IMAGE).image_app(_setup), name="image")
    if importlib.util.find_spec(_EXPLAIN) is not None:
        app.command()(importlib.import_module(_EXPLAIN).explain)
    if importlib.util.find_spec(_BENCH) is not None:
        app.add_typer(importlib.import_module(_BENCH).bench_app, name="bench")
    return app
