"""Where processors of different vendors differ in what Ringlet carries out itself.

What runs on the host's processor behaves as that processor does.  What the virtual processor
carries out (emulated instructions, faults that it raises) has to behave the same way, or a program
could see which of the two it was.  So the vendor here is the host's, by CPUID leaf 0, whatever
vendor the guest's own CPUID names.

This is the one table.  `Conduct` has a member for each thing that differs, saying what sets it and
how that is known; `CONDUCT` says which a vendor has.
"""

from collections.abc import Mapping
from enum import Enum, IntFlag
from types import MappingProxyType
from typing import Final


class Vendor(Enum):
    """A line of processors that behave alike."""

    INTEL = "intel"
    AMD = "amd"


class Conduct(IntFlag):
    """What a processor does where others do something else.

    Each member says what a processor that has it does; then what one without it does.  "Measured"
    names the corpus program of tests/differential in whose recorded outcomes the two differ.
    `ringlet.core.state` has the same numbers for compiled code.
    """

    GATHER_SPREADS_MASK = 1 << 0
    """A gather that stops at a lane has spread each element's sign over the element, and cleared
    the mask above the vector's length; if a lane was loaded, the destination there too.

    Without: the elements of lanes that are done are cleared, and nothing else has changed.  Intel
    SDM 2C, VGATHERDPS: the operation spreads the mask before it loads, which AMD's APM 4 leaves
    open.  Gathers with 32-bit indices are the host's own instruction, and do as the host's vendor.
    Measured: gather-with-a-lane-done, vpgatherqd-at-the-top.
    """

    MASKMOV_HIGH_HALF_FIRST = 1 << 1
    """MASKMOVDQU accesses its upper eight bytes before its lower.

    Without: the lower first.  Neither manual says.  Measured: maskmovdqu-both-halves-fault,
    vector-maskmovdqu-fba9b4.
    """

    MASKED_MOVE_AS_ONE = 1 << 2
    """VMASKMOV and VPMASKMOV raise #GP or #SS if any of their lanes is not canonical, before any
    #PF; and where a store faults in the second of two pages, CR2 is that of its last byte.

    Without: the lanes' faults in their order, each with its first byte.  Neither manual says.
    Measured: masked-lanes-before-canonical-end.
    """

    REP_NARROWS_FIRST = 1 << 3
    """With 67h, REP clears the upper half of RCX, and REP MOVS and STOS that of RSI and RDI as
    well, before anything else: where ECX is 0, and where the first repetition faults.

    Without: the registers change with each repetition.  Neither manual says.  Measured:
    a32-rep-movs-without-a-count, a32-rep-stos-without-a-count, a32-rep-stos-first-faults.
    """

    FLAGS_WITH_LAST_COMPARISON = 1 << 4
    """REP CMPS and REP SCAS change the flags with their last repetition: a fault or a trap between
    two finds them as they were before the first.

    Without: each repetition changes them.  Intel SDM 2B, REP ("the EFLAGS value is restored to the
    state prior to the execution of the instruction"); AMD APM 3, REP, says nothing.  Measured:
    repne-scas-flags-at-a-fault, repne-cmps-flags-at-a-step.
    """

    XSAVE_STACK_BEFORE_ALIGNMENT = 1 << 5
    """XSAVE, XRSTOR and their variants raise #SS for a stack address that is not canonical though
    it is not aligned either.

    Without: #GP for the alignment.  Neither manual orders the two.  Measured:
    misaligned-before-stack-fault.
    """

    REPE_CMPSB_TARGET_FIRST = 1 << 6
    """REPE CMPSB reads [rDI] before [rSI], as every other CMPS does.

    Without: [rSI] first.  Neither manual says.  AMD's Zen 4 reads [rSI] first, and its
    Zen 3 [rDI]; so the host's way is tried out when a processor is made
    (`ringlet.vcpu.emulation.host_conduct`).  Measured: a32-repe-cmpsb-both-fault.
    """

    CALL_STORES_FIRST = 1 << 7
    """A near CALL to an address that is not canonical has stored its return address when it raises
    #GP.  RSP is as it was before.

    Without: nothing is stored.  Intel SDM 2A, CALL, checks the target before it pushes, but its
    processors do not.  Measured: call-non-canonical-from-another-slot.
    """

    LOOP_TAKES_REPETITION = 1 << 8
    """F3 before LOOPE and LOOPNE makes both LOOPE, and F2 makes both LOOPNE.

    Without: the prefix has no effect.  AMD's Zen 3 does so; Intel SDM 2A 2.1.1 reserves the prefix
    there.  It is tried out when a processor is made.  Measured: loopne-with-rep.
    """


CONDUCT: Final[Mapping[Vendor, Conduct]] = MappingProxyType(
    {
        Vendor.INTEL: (
            Conduct.GATHER_SPREADS_MASK
            | Conduct.MASKMOV_HIGH_HALF_FIRST
            | Conduct.MASKED_MOVE_AS_ONE
            | Conduct.REP_NARROWS_FIRST
            | Conduct.FLAGS_WITH_LAST_COMPARISON
            | Conduct.XSAVE_STACK_BEFORE_ALIGNMENT
            | Conduct.REPE_CMPSB_TARGET_FIRST
            | Conduct.CALL_STORES_FIRST
        ),
        Vendor.AMD: Conduct.LOOP_TAKES_REPETITION,
    }
)

_AMD_NAMES: Final = frozenset({"AuthenticAMD", "HygonGenuine"})


def vendor_of(signature: str) -> Vendor:
    """Return the vendor whose processors behave as those with a CPUID signature of 12 characters.

    Hygon's are AMD's design.  Whoever is not known is taken for Intel.
    """
    return Vendor.AMD if signature in _AMD_NAMES else Vendor.INTEL
