"""The identity of the translator, which alone can use the translations that it kept."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ringlet.translate.features import OFFERED

_SUFFIXES: Final = (".py", ".so")


@cache
def identity(*, speculate: bool, features: frozenset[str] = OFFERED) -> bytes:
    """Return 32 bytes that differ if translations of the same guest code may differ.

    They depend on the build of the translator, the decoder, the processor's `features`, and on
    whether flags are exact.
    """
    of = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*")):
        if path.suffix in _SUFFIXES:
            of.update(str(path.relative_to(here)).encode() + b"\0")
            of.update(hashlib.sha256(path.read_bytes()).digest())
    of.update(f"{version('iced-x86')} {sorted(features)} {speculate}".encode())
    return of.digest()
