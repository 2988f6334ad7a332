"""The interface of an engine to the differential test, and the engines by name."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tests.differential.departure import Departure
from tests.differential.program import Outcome, Program

ENGINES = ("ringlet", "ringlet-exact", "unicorn", "native", "ringlet-ring0", "ringlet-off",
           "ringlet-two-levels", "ringlet-pae")


class Engine(Protocol):
    """Something that runs programs; each from its own fresh memory and state."""

    @property
    def name(self) -> str: ...

    @property
    def departs(self) -> Departure:
        """Where it is allowed to differ."""

    def lacks(self, native: Outcome) -> str | None:
        """Return what this machine has not that the host's outcome needs, or None."""

    def run(self, programs: Sequence[Program]) -> list[Outcome]: ...

    def reset(self) -> None:
        """Forget all that earlier programs left: translations, shadow pages."""

    def close(self) -> None: ...


def make_engine(name: str) -> Engine:
    """The engine `name`, one of ENGINES.

    ringlet-exact is Ringlet with --exact; ringlet-ring0 wants programs of kind "32-ring0"; the
    last three are outside IA-32e mode, which only programs of 16 and 32 bits can be.
    """
    if name in ("ringlet", "ringlet-exact"):
        from tests.differential.engine_ringlet import RingletRunner
        return RingletRunner(exact=name == "ringlet-exact")
    if name == "ringlet-ring0":
        from tests.differential.narrow.ring0 import Ring0Runner
        return Ring0Runner()
    if name.startswith("ringlet-"):
        from tests.differential.narrow.legacy import LegacyRunner, Paging
        return LegacyRunner(Paging[name.removeprefix("ringlet-").replace("-", "_").upper()])
    if name == "unicorn":
        from tests.differential.engine_unicorn import UnicornRunner
        return UnicornRunner()
    if name == "native":
        from tests.differential.native import NativeRunner
        return NativeRunner()
    raise ValueError(f"no engine is called {name!r}: {', '.join(ENGINES)}")
