"""Checks that Ringlet passes only under --exact, by program, each with the inexact behaviour.

A name may be a shell pattern.
"""

from fnmatch import fnmatchcase

_DEAD = "arithmetic flags that nothing can read any more are not kept up to a fault"
_TARGET = "which branch went to a non-canonical address is not noted: RIP is the address itself"

SPECULATION: dict[str, dict[str, str]] = {
    "exceptions": {"de.div-memory.flags.cpl?": _DEAD},
    "paging_crossing": {"crossing.*.flags.cpl?": _DEAD, "fetch.non-canonical-*": _TARGET},
}


def given_up(program: str, check: str) -> str | None:
    """Return the inexact behaviour that fails `check` without --exact, or None."""
    names = SPECULATION.get(program, {})
    return next((why for name, why in names.items() if fnmatchcase(check, name)), None)
