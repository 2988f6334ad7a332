"""The commands of `ringlet`, their options, and the functions they call."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Annotated

import typer

from ringlet import __version__, config
from ringlet.cli.streams import emit
from ringlet.errors import ConfigError, RingletError

_BENCH = "ringlet.cli.bench"
_EXPLAIN = "ringlet.cli.explain"
_SUMMARY = "Run x86 guests in user space: no VT-x, no kernel module, no guest patches."


def _not_empty(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return the value of an option.  An empty one, as of an unset variable, is a mistake."""
    source = context.get_parameter_source(parameter.name or "")
    if not value and source is not None and source.name == "COMMANDLINE":
        raise ConfigError(f"{parameter.opts[0]} '': the value is empty; give one, or no option")
    return value


def run(
    program: Annotated[
        str, typer.Argument(help="The guest's name: debian; with --bare, the program to run.")
    ] = "",
    command: Annotated[
        list[str] | None,
        typer.Argument(help="With debian: a command for the guest, after --. Default: a shell."),
    ] = None,
    bare: Annotated[bool, typer.Option(config.BARE.flag, help=config.BARE.help)] = False,
    kernel: Annotated[
        str, typer.Option(config.KERNEL.flag, help=config.KERNEL.help, callback=_not_empty)
    ] = "",
    initrd: Annotated[
        str, typer.Option(config.INITRD.flag, help=config.INITRD.help, callback=_not_empty)
    ] = "",
    append: Annotated[str, typer.Option(config.APPEND.flag, help=config.APPEND.help)] = "",
    package: Annotated[
        str, typer.Option(config.PACKAGE.flag, help=config.PACKAGE.help)
    ] = config.PACKAGE.default,
    memory: Annotated[
        str,
        typer.Option(config.MEMORY.flag, "-m", help=config.MEMORY.help, callback=_not_empty),
    ] = config.MEMORY.default,
    console: Annotated[
        str, typer.Option(config.CONSOLE.flag, help=config.CONSOLE.help)
    ] = config.CONSOLE.default,
    no_reboot: Annotated[
        bool, typer.Option(config.NO_REBOOT.flag, help=config.NO_REBOOT.help)
    ] = False,
    debug_exit: Annotated[
        bool, typer.Option(config.DEBUG_EXIT.flag, help=config.DEBUG_EXIT.help)
    ] = False,
    verbose: Annotated[
        bool, typer.Option(config.VERBOSE.flag, "-v", help=config.VERBOSE.help)
    ] = False,
    stats: Annotated[bool, typer.Option(config.STATS.flag, help=config.STATS.help)] = False,
    exact: Annotated[bool, typer.Option(config.EXACT.flag, help=config.EXACT.help)] = False,
    direct: Annotated[
        str, typer.Option(config.DIRECT.flag, help=config.DIRECT.help)
    ] = config.DIRECT.default,
    cold: Annotated[bool, typer.Option(config.COLD.flag, help=config.COLD.help)] = False,
    trace: Annotated[
        str,
        typer.Option(
            config.TRACE.flag, metavar="FILE", help=config.TRACE.help, callback=_not_empty
        ),
    ] = "",
    compare: Annotated[
        int, typer.Option(config.COMPARE.flag, metavar="N", min=0, help=config.COMPARE.help)
    ] = 0,
    gdb: Annotated[
        str, typer.Option(config.GDB.flag, help=config.GDB.help, callback=_not_empty)
    ] = "",
    gdb_wait: Annotated[
        bool, typer.Option(config.GDB_WAIT.flag, help=config.GDB_WAIT.help)
    ] = False,
) -> int:
    """Run a guest: debian (its kernel and a shell), a Linux kernel, or a bare program."""
    if gdb_wait and not gdb:
        raise ConfigError("--gdb-wait needs --gdb; for example: --gdb 1234 --gdb-wait")
    if trace or compare:
        refuse("--trace and --compare, which need translated code",
               {config.DIRECT: "auto" if direct == "never" else direct})
        direct = "never"
    if gdb and compare:
        raise ConfigError("--compare and --gdb cannot be used together; give one of them")
    # The commands import late, so that help and errors in options are shown at once.
    if bare:
        if kernel or command:
            unwanted = kernel or " ".join(command or [])
            raise RingletError(f"{unwanted}: --bare takes one program and no kernel or command")
        refuse(
            "--bare",
            {config.INITRD: initrd, config.APPEND: append, config.PACKAGE: package,
             config.CONSOLE: console, config.NO_REBOOT: no_reboot,
             config.DEBUG_EXIT: debug_exit, config.VERBOSE: verbose, config.COLD: cold},
        )  # fmt: skip
        from ringlet.cli.run import run_bare

        return run_bare(
            program, memory, stats=stats, exact=exact, direct=config.parse_direct(direct),
            trace=trace, compare=compare, gdb=gdb, gdb_wait=gdb_wait,
        )  # fmt: skip
    from ringlet.cli.linux import NAMES, LinuxOptions, run_debian, run_linux

    options = LinuxOptions(
        kernel, initrd, append, memory, console, not no_reboot, debug_exit, stats, exact,
        config.parse_direct(direct), cold, trace, compare, gdb, gdb_wait,
    )  # fmt: skip
    if kernel:
        if program in NAMES:
            raise RingletError(f"{program} has its own kernel; leave out --kernel")
        if program:
            raise RingletError(f"{program}: --kernel starts a kernel of your own; leave this out")
        refuse("--kernel", {config.PACKAGE: package, config.VERBOSE: verbose})
        return run_linux(options)
    if program in NAMES:
        if initrd or console != config.CONSOLE.default:
            raise RingletError(
                f"{program} has its own initial RAM disk and console; "
                "leave out --initrd and --console"
            )
        return run_debian(options, package, command or [], verbose)
    if program:
        raise RingletError(
            f"{program}: no guest has this name; give debian, --kernel KERNEL, or --bare PROGRAM"
        )
    raise RingletError("nothing to run; for example: ringlet run debian")


def refuse(what: str, options: Mapping[config.Option, str | bool]) -> None:
    """Raise ConfigError for the first option that is given but has no meaning with `what`."""
    for option, value in options.items():
        if value != option.default and value is not False:
            raise ConfigError(f"{option.flag} has no effect with {what}; leave it out")


def doctor() -> int:
    """Check whether this host can run guests, and list what it offers and lacks."""
    from ringlet.cli.doctor import run_doctor

    return run_doctor()


def _show_version(wanted: bool) -> None:
    if wanted:
        emit(f"ringlet {__version__}")
        raise typer.Exit(0)


def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        emit(context.get_help())


def make_app() -> typer.Typer:
    """Return the app with `run` and `doctor`, and with `explain` and `bench` if installed."""
    app = typer.Typer(
        name="ringlet",
        help=_SUMMARY,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback(invoke_without_command=True)(_top)
    app.command()(run)
    app.command()(doctor)
    if importlib.util.find_spec(_EXPLAIN) is not None:
        app.command()(importlib.import_module(_EXPLAIN).explain)
    if importlib.util.find_spec(_BENCH) is not None:
        app.add_typer(importlib.import_module(_BENCH).bench_app, name="bench")
    return app
