"""Measures the translator's throughput on a kernel's text."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ringlet.errors import HostError

# The mode key of 64-bit code at CPL 0 (KEY_MODE64 in src/ringlet/core/state.pxd).
KEY_KERNEL64 = 1 << 4


class Sweep(Protocol):
    """The results of a walk over a text; the bytes that are left over are not translated."""

    fragments: int
    guest_instructions: int
    guest_bytes: int
    host_bytes: int
    cache_bytes: int


class Translator(Protocol):
    """A translator as a pure function of bytes, their linear address and the mode key."""

    def sweep(self, text: bytes, linear: int, key: int) -> Sweep: ...


@dataclass(frozen=True)
class Pass:
    """One walk over the text."""

    seconds: float
    fragments: int
    instructions: int
    guest_bytes: int
    host_bytes: int
    cache_bytes: int
    skipped_bytes: int

    @property
    def us_per_instruction(self) -> float:
        """Return the microseconds of translation per guest instruction."""
        return self.seconds * 1e6 / self.instructions if self.instructions else 0.0

    @property
    def expansion(self) -> float:
        """Return the bytes of host code per byte of guest code."""
        return self.host_bytes / self.guest_bytes if self.guest_bytes else 0.0

    @property
    def cache_expansion(self) -> float:
        """Return the bytes of code cache per byte of guest code."""
        return self.cache_bytes / self.guest_bytes if self.guest_bytes else 0.0


@dataclass(frozen=True)
class Throughput:
    """The time to make a new translator (`start`, seconds), its first walk and its second walk."""

    start: float
    cold: Pass
    warm: Pass


def ringlet_translator() -> Translator:
    """Return a new instance of Ringlet's translator with empty caches."""
    try:
        module = importlib.import_module("ringlet.translate.translator")
    except ImportError as error:
        raise HostError(f"this build of Ringlet has no translator ({error})") from error
    made: Translator = module.Translator()
    return made


def walk(translator: Translator, text: bytes, linear: int, key: int = KEY_KERNEL64) -> Pass:
    """Translate all of `text`; each fragment begins where the last one ended."""
    begin = time.perf_counter()
    made = translator.sweep(text, linear, key)
    seconds = time.perf_counter() - begin
    left = len(text) - made.guest_bytes
    return Pass(seconds, made.fragments, made.guest_instructions, made.guest_bytes,
                made.host_bytes, made.cache_bytes, left)  # fmt: skip


def measure(
    text: bytes, linear: int, make: Callable[[], Translator] = ringlet_translator
) -> Throughput:
    """Walk `text` cold, then warm."""
    begin = time.perf_counter()
    translator = make()
    start = time.perf_counter() - begin
    return Throughput(start, walk(translator, text, linear), walk(translator, text, linear))
