"""The command `ringlet run`: its options, and what they mean together."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ringlet import __version__, config
from ringlet.cli.arguments import arranged
from ringlet.cli.streams import emit
from ringlet.cli.typed import as_typed, remember
from ringlet.errors import ConfigError

_GUEST: Any = "The guest: debian; or the file of a kernel; with --bare, the program to run."
_COMMAND: Any = "A command for the guest. Default: a shell."


class RunCommand(TyperCommand):
    """The command `run`, whose options end where the guest's command begins."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.  Raises ConfigError for an option of another program."""
        takes_value = {
            name: not (getattr(param, "is_flag", False) or getattr(param, "count", False))
            for param in self.get_params(ctx)
            for name in (*param.opts, *param.secondary_opts)
            if name.startswith("-")
        }
        arguments = arranged(args, takes_value.get)
        remember(ctx, arguments, takes_value)
        return super().parse_args(ctx, arguments)


def _not_empty(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return the value of an option.  An empty one, as of an unset variable, is a mistake."""
    source = context.get_parameter_source(parameter.name or "")
    if not value and source is not None and source.name == "COMMANDLINE":
        name = as_typed(context, parameter.opts[0])
        raise ConfigError(f"{name} '': the value is empty; give one, or no option")
    return value


def show_version(wanted: bool) -> None:
    """Print the version and end the command, if it is wanted."""
    if wanted:
        emit(f"ringlet {__version__}")
        raise typer.Exit(0)


def _help(option: config.Option) -> str:
    """Return the option's help for rich, which takes words in brackets for markup."""
    return option.help.replace("[", r"\[")


def _text(option: config.Option, *names: str, metavar: str = "TEXT", empty: bool = False) -> Any:
    """Return the declaration of an option that takes a text."""
    return typer.Option(
        option.flag, *names, metavar=metavar, help=_help(option),
        callback=None if empty else _not_empty,
    )  # fmt: skip


def _flag(option: config.Option, *names: str) -> Any:
    """Return the declaration of an option that takes no value."""
    return typer.Option(option.flag, *names, help=_help(option))


def _one_network(given: list[str], called: str) -> str:
    if len(given) > 1:
        raise ConfigError(f"{called}: given {len(given)} times; a machine has one network card")
    if given == [""]:
        raise ConfigError(f"{called} '': the value is empty; give one, or no option")
    return given[0] if given else config.NET.default


def run(
    context: typer.Context,
    guest: Annotated[str, typer.Argument(help=_GUEST)] = "",
    command: Annotated[list[str] | None, typer.Argument(help=_COMMAND)] = None,
    memory: Annotated[str, _text(config.MEMORY, "-m", metavar="SIZE")] = "",
    cpus: Annotated[
        int, typer.Option(config.CPUS.flag, "--cpus", metavar="N", help=_help(config.CPUS))
    ] = 1,
    env: Annotated[
        list[str] | None,
        typer.Option(config.ENV.flag, "--env", metavar="NAME=VALUE", help=_help(config.ENV)),
    ] = None,
    env_file: Annotated[
        list[str] | None,
        typer.Option(config.ENV_FILE.flag, metavar="FILE", help=_help(config.ENV_FILE)),
    ] = None,
    cwd: Annotated[str, _text(config.WORKDIR, "--workdir", metavar="DIR")] = "",
    mounts: Annotated[
        list[str] | None,
        typer.Option(
            config.MOUNTS.flag, "--volume", metavar="HOST:GUEST[:ro]", help=_help(config.MOUNTS)
        ),
    ] = None,
    ports: Annotated[
        list[str] | None,
        typer.Option(
            config.PORTS.flag, "--publish", metavar="HOST:GUEST", help=_help(config.PORTS)
        ),
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option(config.NET.flag, "--network", metavar="KIND", help=_help(config.NET)),
    ] = None,
    vsock: Annotated[str, _text(config.VSOCK, metavar="PATH")] = "",
    user_data: Annotated[str, _text(config.USER_DATA, metavar="FILE")] = "",
    disks: Annotated[
        list[str] | None,
        typer.Option(config.DISKS.flag, metavar="FILE[,ro|,snapshot]", help=_help(config.DISKS)),
    ] = None,
    root: Annotated[str, _text(config.ROOT, metavar="DIR")] = "",
    kernel: Annotated[str, _text(config.KERNEL, metavar="FILE")] = "",
    initrd: Annotated[str, _text(config.INITRD, metavar="FILE")] = "",
    append: Annotated[
        str | None,
        typer.Option(config.APPEND.flag, metavar="TEXT", help=_help(config.APPEND)),
    ] = None,
    package: Annotated[str, _text(config.PACKAGE, empty=True)] = config.PACKAGE.default,
    timeout: Annotated[str, _text(config.TIMEOUT, metavar="TIME")] = "",
    name: Annotated[str, _text(config.NAME)] = "",
    detach: Annotated[bool, _flag(config.DETACH, "-d")] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i", "--interactive",
            help="Accepted for Docker's users: standard input is the command's anyway.",
        ),
    ] = False,
    terminal: Annotated[
        bool,
        typer.Option("-t", "--tty", help="Run the guest's shell on the terminal."),
    ] = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--rm", help="Leave nothing of a machine with a name; else its log and status remain."
        ),
    ] = False,
    gdb: Annotated[str, _text(config.GDB, metavar="PLACE")] = "",
    gdb_default: Annotated[bool, _flag(config.GDB_DEFAULT)] = False,
    gdb_wait: Annotated[bool, _flag(config.GDB_WAIT, "-S")] = False,
    log: Annotated[str, _text(config.LOG, metavar="FILE")] = "",
    verbose: Annotated[bool, _flag(config.VERBOSE)] = False,
    console: Annotated[str, _text(config.CONSOLE, empty=True)] = config.CONSOLE.default,
    no_reboot: Annotated[bool, _flag(config.NO_REBOOT)] = False,
    debug_exit: Annotated[bool, _flag(config.DEBUG_EXIT)] = False,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=show_version, is_eager=True, hidden=True)
    ] = False,
    bare: Annotated[bool, _flag(config.BARE)] = False,
    flat: Annotated[str, _text(config.FLAT, metavar="MODE@ADDRESS")] = "",
    stats: Annotated[bool, _flag(config.STATS)] = False,
    exact: Annotated[bool, _flag(config.EXACT)] = False,
    direct: Annotated[str, _text(config.DIRECT, empty=True)] = config.DIRECT.default,
    cold: Annotated[bool, _flag(config.COLD)] = False,
    trace: Annotated[str, _text(config.TRACE, metavar="FILE")] = "",
    compare: Annotated[
        int, typer.Option(config.COMPARE.flag, metavar="N", min=0, help=_help(config.COMPARE))
    ] = 0,
) -> int:
    """Run a guest: debian (its kernel and a shell), a Linux kernel, or a bare program.

    Options end at the guest's name; what follows is a command for the guest.
    """
    del interactive, version  # what they ask for is always so

    def called(option: config.Option) -> str:
        return as_typed(context, option.flag)

    gdb = _gdb(gdb, called(config.GDB_WAIT), default=gdb_default, wait=gdb_wait)
    if detach:
        refuse(
            called(config.DETACH),
            {config.BARE: bare, config.GDB_WAIT: gdb_wait, config.STATS: stats,
             config.TRACE: trace, config.COMPARE: bool(compare), config.VERBOSE: verbose,
             config.CONSOLE: console},
            called,
        )  # fmt: skip
    if trace or compare:
        refuse("--trace and --compare, which need translated code",
               {config.DIRECT: "auto" if direct == "never" else direct}, called)
        direct = "never"
    if gdb and compare:
        raise ConfigError("--compare and --gdb cannot be used together; give one of them")
    # The commands import late, so that help and errors in options are shown at once.
    net = _one_network(networks or [], called(config.NET))
    variables = [line for file in env_file or () for line in _env_file(file)] + (env or [])
    if bare:
        _check_bare(guest, kernel or " ".join(command or []))
        refuse(
            "--bare",
            {config.INITRD: initrd, config.APPEND: append or "", config.PACKAGE: package,
             config.NO_REBOOT: no_reboot, config.LOG: log, config.DEBUG_EXIT: debug_exit,
             config.VERBOSE: verbose, config.COLD: cold,
             config.ENV: bool(variables), config.WORKDIR: cwd, config.MOUNTS: bool(mounts),
             config.DISKS: bool(disks), config.PORTS: bool(ports), config.NET: net,
             config.ROOT: root, config.NAME: name, config.VSOCK: vsock,
             config.USER_DATA: user_data},
            called,
        )  # fmt: skip
    from ringlet.cli.launch import Watching, run_guest, run_kernel, run_program
    from ringlet.control.spec import machine_spec, require_supported

    if detach:
        from ringlet.cli.detached import run_detached
    if root and guest:
        guest, command = "", _command_in(root, [guest, *(command or [])], called)
    spec = machine_spec(
        "" if bare else guest, program=guest if bare else None, flat=flat or None,
        kernel=kernel or None, initrd=initrd or None, append=append, package=package,
        root=root or None, memory=memory, cpus=cpus, mounts=mounts, disks=disks, ports=ports,
        net=net or None, vsock=vsock or None, user_data=user_data or None, env=variables, cwd=cwd,
        timeout=timeout or None, name=name, console=console, log=log or None, direct=direct,
        exact=exact, cold=cold, reboot=not (no_reboot or bare), debug_exit=debug_exit,
        called=called,
    )  # fmt: skip
    watching = Watching(verbose, stats, trace, compare, gdb, gdb_wait)
    if bare:
        return run_program(spec, watching)
    if not (spec.guest or spec.image or spec.root):
        require_supported(spec, called)
        if command:
            raise ConfigError(
                f"{' '.join(command)}: a kernel alone takes no command; give a guest, too: "
                "ringlet run --kernel FILE debian COMMAND"
            )
        refuse(
            "a kernel of your own",
            {config.PACKAGE: package, config.VERBOSE: verbose, config.ENV: bool(variables),
             config.WORKDIR: cwd},
            called,
        )  # fmt: skip
        if detach:
            return run_detached(spec, [], watching, remove=remove)
        return run_kernel(spec, watching, remove=remove)
    if console != config.CONSOLE.default:
        raise ConfigError(f"{spec.guest} has its own console; leave out --console")
    if kernel:
        refuse("--kernel", {config.PACKAGE: package}, called)
    if detach:
        return run_detached(spec, command or [], watching, remove=remove)
    return run_guest(spec, command or [], watching, terminal=terminal, remove=remove)


def _gdb(where: str, waiting: str, *, default: bool, wait: bool) -> str:
    """Return where gdb is served, from --gdb, -s and -S together."""
    if default and where:
        raise ConfigError("-s is --gdb :1234; give one of them")
    if wait and not (where or default):
        raise ConfigError(f"{waiting} needs --gdb; for example: --gdb :1234 --gdb-wait, or -s -S")
    return ":1234" if default else where


def _command_in(root: str, words: list[str], called: Callable[[config.Option], str]) -> list[str]:
    """Return the command of a guest whose root is given: all words, because none is a name's."""
    if words[0] == "debian":
        raise ConfigError(f"{called(config.ROOT)} {root}: is the guest; leave out debian")
    return words


def _check_bare(program: str, unwanted: str) -> None:
    if unwanted:
        raise ConfigError(f"{unwanted}: --bare takes one program and no kernel or command")
    if not program:
        raise ConfigError("no program given; for example: ringlet run --bare PROGRAM.elf")


def refuse(
    what: str,
    options: Mapping[config.Option, str | bool],
    called: Callable[[config.Option], str],
) -> None:
    """Raise ConfigError for the first option that is given but has no meaning with `what`."""
    for option, value in options.items():
        if value != option.default and value is not False:
            raise ConfigError(f"{called(option)} has no effect with {what}; leave it out")


def _env_file(file: str) -> list[str]:
    from ringlet.control.parts import variables_of_file

    return variables_of_file(Path(file), config.ENV_FILE.flag)
