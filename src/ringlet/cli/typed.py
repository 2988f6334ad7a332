"""The options of a command by the names that the user has typed: --cpus, or -c.

Messages call an option by that name, as the user may not know the other.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ringlet.cli.other_commands import named_in

_GIVEN: Final = "ringlet.cli.typed"


def names_given(
    arguments: Iterable[str], takes_value: Mapping[str, bool], *, ends: bool = False
) -> list[str]:
    """Return the names of the options in `arguments`, up to `--`, as they are written there.

    `takes_value` has the command's options, and whether each takes a value.  With `ends` the first
    other word ends the options too.
    """
    found: list[str] = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument == "--" or (ends and not argument.startswith("-")):
            break
        else:
            for name, has_value in named_in(argument, takes_value):
                found.append(name)
                is_value = takes_value.get(name, False) and not has_value
    return found


def remember(
    context: Any, arguments: Iterable[str], takes_value: Mapping[str, bool], *, ends: bool = False
) -> None:
    """Keep the names in `arguments` for `as_typed`."""
    context.meta[_GIVEN] = names_given(arguments, takes_value, ends=ends)


def as_typed(context: Any, option: str) -> str:
    """Return the name that the user has typed for `option`; `option` itself if there is none."""
    names = next((p.opts for p in context.command.params if option in p.opts), [option])
    given: list[str] = context.meta.get(_GIVEN, [])
    return next((name for name in given if name in names), option)
