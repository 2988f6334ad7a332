"""Groups of commands, which answer what other programs have in place of one of theirs."""

from typing import Any

from typer.core import TyperGroup

from ringlet.cli.other_commands import COMMANDS, require_own_options
from ringlet.cli.typed import remember
from ringlet.errors import ConfigError


class Commands(TyperGroup):
    """The commands of `ringlet`, or of a group such as `ringlet image`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own options.  Raises ConfigError for one of Docker's."""
        require_own_options(_path(ctx), args, _options(self), ends=True)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names.

        Raises ConfigError for one that is reserved, or that another program has, and for an option
        of Docker's command.
        """
        others = COMMANDS.get(_path(ctx), {})
        if args and args[0] in others and self.get_command(ctx, args[0]) is None:
            raise ConfigError(f"{args[0]}: {others[args[0]]}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, TyperGroup):
            path = f"{_path(ctx)} {args[0]}".lstrip()
            options = _options(command)
            # Typer gives it to the context of the command alone.
            mixed = command.context_settings.get("allow_interspersed_args", True)
            require_own_options(path, rest, options, ends=not mixed)
            remember(ctx, rest, options, ends=not mixed)
        return name, command, rest


def _path(context: Any) -> str:
    """Return the words that lead to the group, without the program's name."""
    words: str = context.command_path
    return words.partition(" ")[2]


def _options(command: Any) -> dict[str, bool]:
    """Return a command's options, and whether each takes a value."""
    return {
        option: not getattr(parameter, "is_flag", False)
        for parameter in command.params
        for option in parameter.opts
    }
