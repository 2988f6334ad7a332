"""Gives a command in the guest its variables and its directory."""

import os
from collections.abc import Sequence

from ringlet.control.spec import MachineSpec


def in_environment(spec: MachineSpec, command: Sequence[str]) -> tuple[bytes, ...]:
    """Return the words that run `command` in the guest with the spec's variables and directory."""
    words = [*command]
    if spec.env:
        words = ["env", *(f"{name}={value}" for name, value in spec.env), *words]
    if spec.cwd:
        words = ["sh", "-c", 'cd -- "$0" && exec "$@"', spec.cwd, *words]
    return tuple(os.fsencode(word) for word in words)
