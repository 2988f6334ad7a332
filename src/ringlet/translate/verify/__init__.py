"""An independent check that a translation can access only its guest's memory.

It reads the finished host code, decoded by iced-x86, and shares with the translator only the
offsets of the state block's fields.  It follows every path, with values as linear forms
(`ringlet.translate.verify.forms`).  It proves these rules for each translation:

1.  **Every memory access goes through an addend.**  The address, as a form, is one addend with
    factor 1, plus a value *covered* by it, plus a bounded distance of at most `GUARD`.  An addend
    covers V in these cases:

    - it was loaded from the slot table of the current privilege, at the index formed by bits 51..36
      of V (RORX 36, MOVZX 16), or from a constant entry, which covers the addresses of its slot;
    - it was loaded from that table at a predicted slot, which may be any number of 16 bits, on the
      path where a comparison found it equal to bits 51..36 of V (RORX 36, CMP r16, JNE);
    - an access at V through it was certainly performed: it did not fault, so V was in the slot;
    - V is the guest's RSP, and a probe precedes (see 3);
    - it was the addend in RSP on entry, and V the guest's RSP at that point (see 3);
    - it is the host address of FS or GS, which covers itself.

    A checked translation also reads, but never writes, the guest bytes from which it was made.

    For every index, the table gives a region between guards, or an addend that makes the sum
    non-canonical.  So a bounded distance from V ends in the region, in a guard, or at a
    non-canonical address.

2.  **Distances are bounded** if they are constants, and zero-extended or sign-extended registers or
    the 32-bit indices of a gather, times a scale.  An unconditional 32-bit write in this fragment
    zero-extends a register, and MOVSX, MOVSXD and CDQE sign-extend one.  CMOVcc counts, because it
    always writes; CMPXCHG, BSF and BSR do not, because they may leave the register unchanged.
    BT, BTS, BTR, BTC with a register add (offset >> 6) * 8 or (offset >> 5) * 4 themselves, which
    must be part of the covered value.

3.  **RSP** is a guest value plus its addend.  On entry it may be up to `BELOW` or `ABOVE` outside
    its region, because of performed accesses at a distance from it.  The fragment may leave it
    unmoved, or within that distance of an access that was certainly performed or of the value to
    which it was bound.  Wherever the fragment is left, `rsp_naddend` in the state must be the
    negative of its addend.  The same holds where a loop inside the fragment begins its next pass.
    There, sums of registers that r10 or r11 covers must also be unmoved, or near an access of the
    same pass.

    An access is certainly performed if the instruction cannot complete without it, because the
    fault handler skips only probes.  This excludes masked moves, gathers, string instructions (the
    count may be 0), and x87 instructions (a store with an unmasked exception accesses nothing).

    A *probe*, recognized by its bytes, is a load at RSP.  After it, either the load was performed,
    or RSP is its guest value plus the addend of that value in the table of the current privilege.
    In both cases its addend covers the value.  The fault handler ensures this (`probe_fault` in
    `vcpu.loop.faults`).  It takes the guest's value from `rsp_naddend`, which must therefore be
    correct at a probe.  A skipped probe does not change r8.

4.  **r10 and r11** are the addends of a fragment's two windows, or copies of guest r8-r11.  On
    entry they hold nothing that may be used.

5.  **No addend reaches the guest**: no guest register at an exit, no guest memory, and no
    instruction that computes with it.  The same holds for the values of r8 and r9 before an
    instruction's code: scratch registers pass no value from one guest instruction to the next.

6.  **The state block** is accessed at constant addresses only, each with its relocation, and only
    in fields that translated code may read or write; never in tables of the other privilege.

7.  **Control** leaves through stubs, links and the jump table, whose index is the low 16 bits of
    r8.  A fragment that steps never uses the table.  A thunk continues only if r8 is the fragment's
    address.  Other branches go to instructions of the fragment or to out-of-line code.  That code
    returns to the instruction after its branch, or leaves because the guest's bytes have changed
    and names the fragment.  Code follows every point at which an operation may resume.

8.  **Nothing sensitive is executed**: no instruction that has a rule or is not offered (except
    PUSHFQ and RDTSC at CPL 0, which are parts of the inlined ones), no segment FS or GS, no 32-bit
    address, no RIP-relative address, no vector of 64-bit indices, no masked store at RDI, no call
    or return of the host.

9.  **The base of GS** changes only at CPL 0.  Its new host address, the base plus the addend that
    covers it, is stored before the fragment is left.

A string instruction with REP moves RSI and RDI without limit, but one access at a time, so it
reaches the guard first.  The verifier relies on the run time for two things: the addends at the
start of a fragment are correct, and bindings become stale only between fragments.

Translations of 16- and 32-bit code have another contract, which `verify_narrow` checks.

Sources: SDM vol. 1 3.3.7 (canonical addresses), 3.4.1.1 (32-bit results); vol. 2A BT, BSF, CMPXCHG.
"""

from ringlet.translate.translator import Translation
from ringlet.translate.verify.execution import GUARD
from ringlet.translate.verify.facts import ABOVE, BELOW
from ringlet.translate.verify.narrow import verify_narrow
from ringlet.translate.verify.paths import Paths, Violation
from ringlet.translate.verify.plan import Plan

__all__ = ["ABOVE", "BELOW", "GUARD", "Verifier", "Violation", "verify", "verify_narrow"]


class Verifier:
    """Checks translations, and keeps the plans of instruction encodings."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}

    def check(self, translation: Translation) -> list[Violation]:
        """Return the violations in `translation`, an empty list if it is sound."""
        return Paths(translation, self._plans).check()


def verify(translation: Translation) -> list[Violation]:
    """Return the violations in `translation`, an empty list if it is sound."""
    return Verifier().check(translation)
