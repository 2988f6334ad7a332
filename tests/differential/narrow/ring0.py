"""Programs of 32-bit code at CPL 0, compared with the host's outcome at CPL 3.

Where no instruction depends on the privilege, they differ in the selectors' RPL, in the bit of a
page fault's error code that says who accessed, and in whether POPF changes IF and IOPL.
"""
from __future__ import annotations

from dataclasses import replace

from ringlet.arch.vendors import Vendor
from ringlet.vcpu.processor import Processor
from tests.differential import guest
from tests.differential.engine_ringlet import RingletRunner, load_state, new_processor
from tests.differential.forms import Form, Group
from tests.differential.narrow.generate import NarrowGenerator
from tests.differential.program import Outcome, State

_PF = 14
_USER = 4                     # in a page fault's error code
_CS, _SS = 0x08, 0x18
_CODE_RIGHTS, _DATA_RIGHTS = 0xC09B, 0xC093


class Ring0Generator(NarrowGenerator):
    """Draws programs without instructions that depend on the privilege."""

    def _pick(self, group: Group) -> Form:
        form = super()._pick(group)
        while form.mnemonic.startswith("POPF"):
            form = super()._pick(group)
        return form

    @classmethod
    def forms(cls) -> tuple[Form, ...]:
        """All forms but those that depend on the privilege."""
        return tuple(form for form in super().forms() if form.group is not Group.TRAP
                     and not form.mnemonic.startswith("POPF"))

    def _step_trap(self) -> None:
        """Privileged instructions are left out."""

    def _step_self_modify(self) -> None:
        """What is written could be a privileged instruction."""


class Ring0Runner(RingletRunner):
    """Runs programs of 32-bit code at CPL 0 of IA-32e mode; exceptions switch the stack by IST."""

    def __init__(self, timeout: float = 10.0, *, exact: bool = False,
                 vendor: Vendor | None = None) -> None:
        super().__init__(timeout, exact=exact, vendor=vendor)
        self.name = "ringlet, CPL 0"

    def _new_processor(self) -> Processor:
        return new_processor(1, exact=self._exact, vendor=self._vendor)

    def _load(self, state: State) -> None:
        p = self.processor
        load_state(p, state)
        p.set_segment(1, _CS, 0, 0xFFFFFFFF, _CODE_RIGHTS)
        p.set_segment(2, _SS, 0, 0xFFFFFFFF, _DATA_RIGHTS)
        p.set("cpl", 0)

    def _frame(self, vector: int) -> tuple[int, tuple[int, ...]]:
        error, frame = guest.frame(self.processor.read_phys(guest.IST1_TOP - 48, 48), vector)
        return error | (_USER if vector == _PF else 0), frame

    def _outcome(self, pages: dict[int, bytes]) -> Outcome:
        outcome = super()._outcome(pages)
        es, cs, ss, *others = outcome.state.selectors
        cs, ss = {_CS: guest.USER_CS32}.get(cs, cs), {_SS: guest.USER_SS}.get(ss, ss)
        return replace(outcome, state=replace(outcome.state, selectors=(es, cs, ss, *others)))
