"""The rules of the sensitive instructions, by subject; `RULES` holds them all."""

from typing import Final

from ringlet.translate.rules import (
    control,
    flags,
    fpstate,
    memory,
    misc,
    msr,
    ports,
    segments,
    tables,
    transfers,
)
from ringlet.translate.rules.registry import Registry, union

RULES: Final[Registry] = union(
    ports.RULES,
    flags.RULES,
    transfers.RULES,
    tables.RULES,
    segments.RULES,
    control.RULES,
    msr.RULES,
    memory.RULES,
    fpstate.RULES,
    misc.RULES,
)
