"""An independent check that a translation can access only its guest's memory.

It reads the finished host code, decoded by iced-x86, and shares with the translator only the
offsets of the state block's fields.  It follows every path, with values as linear forms
(`ringlet.translate.verify.forms`).  It proves these rules for each translation:

1.  **Every access to memory goes through an addend.**  The address, as a form, is one addend of
    factor 1, plus a value *covered* by it, plus a distance that is bounded and at most `GUARD`.  An
    addend covers V if
    - it was loaded from the privilege's own slot table at the index made of bits 51..36 of V
      (RORX 36, MOVZX 16), or from a constant entry, which covers the addresses of that slot;
    - it is r11 and V's bits 63..32 were compared equal to r10 (RORX 32, CMP r32, JNE), on the path
      where they are.  On entry r11 is the addend of an unknown value whose tag r10 is;
    - an access at V through it was surely performed: it did not fault, so it was in the slot;
    - V is RSP's guest value, and a probe stands there (see 3);
    - it was the addend in RSP on entry, and V the guest's RSP then (see 3);
    - it is the host address of FS or GS, which covers itself.
    A checked translation also reads, and only reads, the guest's bytes that it was made of.
    The table answers every index with a region between guards or with an addend that makes the sum
    non-canonical; so a bounded distance from V ends in the region, in a guard or non-canonical.
2.  **Distances are bounded** if they are constants and zero-extended registers times a scale.  A
    register is zero-extended by an unconditional 32-bit write in this fragment; CMOVcc counts, for
    it writes in any case; CMPXCHG, BSF and BSR do not, for they may leave the register alone.
    BT, BTS, BTR, BTC with a register add (offset >> 6) * 8 or (offset >> 5) * 4 by themselves,
    which must be part of the value covered.
3.  **RSP** is a guest value and its addend.  On entry it may be beyond its region by `BELOW` or
    `ABOVE`, from accesses at a distance from it that were performed.  It may leave the fragment
    unmoved, or that near to an access that was surely performed or the value it was bound to.
    `rsp_naddend` in the state must be the negative of its addend wherever the fragment is left.
    So it is where a loop inside the fragment begins its next pass; and the same holds there for
    sums of registers that r11 covers: unmoved, or near an access of that very pass.
    An access is surely performed if the instruction cannot end without it, and the fault handler
    passes nothing that was not performed but probes.  No masked move is surely performed, no string
    instruction (its count may be 0), and none of the x87 (a store that raises an unmasked exception
    accesses nothing).
    A *probe*, told by its bytes, is a load at RSP.  Behind it, the load was performed, or RSP is
    its guest value plus the addend that the privilege's table has for that value.  Either way its
    addend covers the value.  The fault handler sees to that (`probe_fault` in
    `vcpu.loop.faults`) and takes the guest's value from `rsp_naddend`, which must therefore be
    right at a probe.  A probe that is passed leaves r8 as it was.
4.  **r10 and r11** are a tag and an addend that covers values with that tag, wherever it is left.
5.  **No addend reaches the guest**: neither a guest register at an exit, nor guest memory, nor an
    instruction that computes with it.  Nor is what r8 and r9 held before an instruction's code: the
    scratch registers carry nothing from one guest instruction to the next.
6.  **The state block** is reached at constant addresses only, each with its relocation, and only
    the fields that translated code may read or write; tables of the other privilege never.
7.  **Control** leaves through stubs, links and the privilege's jump table, whose index is the low
    16 bits of r8, but never through the table where instructions step one by one; a thunk lets
    through only r8 = the fragment's address; other branches go to
    instructions of the fragment, or to out-of-line code that comes back to the instruction after
    its branch, or leaves because the bytes have changed and says whose.  Where an operation may
    resume, code follows.
8.  **Nothing sensitive is executed**: no instruction that has a rule or is not offered (but for
    PUSHFQ at CPL 0, part of the inlined one), no segment FS or GS, no 32-bit address, no
    RIP-relative one, no vector of addresses, no masked store at RDI, no call or return of the host.

A string instruction with REP moves RSI and RDI without end, but access by access: it meets the
guard first.  What an addend is when a fragment begins, and that bindings go stale only between
fragments, is the run time's part.

Sources: SDM vol. 1 3.3.7 (canonical addresses), 3.4.1.1 (32-bit results); vol. 2A BT, BSF, CMPXCHG.
"""

from ringlet.translate.translator import Translation
from ringlet.translate.verify.execution import GUARD
from ringlet.translate.verify.facts import ABOVE, BELOW
from ringlet.translate.verify.paths import Paths, Violation
from ringlet.translate.verify.plan import Plan

__all__ = ["ABOVE", "BELOW", "GUARD", "Verifier", "Violation", "verify"]


class Verifier:
    """Checks translations; it keeps what it learns of instruction encodings."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}

    def check(self, translation: Translation) -> list[Violation]:
        """Return what is unsound in `translation`; nothing if it is sound."""
        return Paths(translation, self._plans).check()


def verify(translation: Translation) -> list[Violation]:
    """Return what is unsound in `translation`; nothing if it is sound."""
    return Verifier().check(translation)
