"""Finds the end of the options of `ringlet run`: they end where the guest's command begins."""

import re
from collections.abc import Callable, Iterable
from typing import Final

from ringlet.cli.elsewhere import instead_of
from ringlet.errors import ConfigError

_ROOT: Final = re.compile("--root(=.*)?", re.DOTALL)
_NO_SHARE: Final = re.compile("-v[^:]+", re.DOTALL)


def arranged(arguments: Iterable[str], takes_value: Callable[[str], bool | None]) -> list[str]:
    """Return the arguments of `ringlet run` as options, `--`, the guest, and its command.

    Options end at the guest's name; those that follow it at once are the run's, too, because no
    command begins with `-`.  With --root there is no guest's name, so the first word is the
    command's.  A `--` before the command is dropped.  A word with one dash that is an option with
    two, such as QEMU's -kernel, is that option.  `takes_value` tells of an
    option whether it takes a value; None means that there is no such option.  Raises ConfigError
    for an option of Docker or QEMU, and says what to give instead.
    """
    rest = list(arguments)
    options, complete = _options(rest, takes_value)
    ended = _drop_separator(rest) or any(map(_ROOT.fullmatch, options))
    words = [rest.pop(0)] if rest else []
    if not ended:
        more, complete = _options(rest, takes_value)
        options += more
    if not complete:
        return options  # a separator would be taken for the value of the last option
    _drop_separator(rest)
    return [*options, "--", *words, *rest]


def _drop_separator(rest: list[str]) -> bool:
    """Remove a leading `--` and return whether there was one."""
    if rest[:1] == ["--"]:
        del rest[0]
        return True
    return False


def _options(
    rest: list[str], takes_value: Callable[[str], bool | None]
) -> tuple[list[str], bool]:
    """Remove the leading options from `rest`, with their values.

    Return them, and whether the last one has its value.
    """
    found: list[str] = []
    while rest and rest[0].startswith("-") and rest[0] not in {"-", "--"}:
        argument = rest.pop(0)
        name, has_value, _ = argument.partition("=")
        if takes_value(name) is None:
            argument = _own(argument, name, takes_value)
        found.append(argument)
        if not has_value and _wants_more(argument, takes_value):
            if not rest:
                return found, False
            found.append(rest.pop(0))
    return found, True


def _own(argument: str, name: str, takes_value: Callable[[str], bool | None]) -> str:
    """Return `argument`, whose option `name` is not Ringlet's, as Ringlet's if there is one."""
    if advice := instead_of(name):
        raise ConfigError(f"{name}: {advice}")
    if not name.startswith("--") and len(name) > 2 and takes_value(f"-{name}") is not None:
        return f"-{argument}"
    if takes_value("-v") and _NO_SHARE.fullmatch(argument):
        raise ConfigError(
            f"{argument}: -v takes HOST:GUEST, a directory to share; --verbose shows the kernel's "
            "messages"
        )
    return argument


def _wants_more(argument: str, takes_value: Callable[[str], bool | None]) -> bool:
    """Return whether the value of the last option in `argument` is the next argument."""
    if argument.startswith("--"):
        return bool(takes_value(argument))
    letters = argument[1:]
    for place, letter in enumerate(letters):
        if takes_value(f"-{letter}"):
            return place == len(letters) - 1
    return False
