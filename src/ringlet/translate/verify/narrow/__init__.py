"""The verifier of translations of 16- and 32-bit code, which have a contract of their own.

Between two guest instructions r10 is the host address of linear address 0, r11 is 63, and RAX to
RDI, RSP among them, hold the guest's 32-bit values with zeros above.  r8 brings nothing from one
instruction to the next, and r9 at most such a value, if none is entered between the two.  One pass
over the host's instructions, with what each register holds, proves these rules.  Where two paths
meet, what both say holds.

1.  **An access is in the window, in a checked part of a segment, or at no canonical address.**  Its
    address is r10 plus at most one 32-bit value and a displacement below `NEAR`; or the same with
    the window's address for FS or GS; or a checked offset plus the base of the same segment; or one
    register with such a sum.  A window has 64 GiB with guards on both sides, and the sum of two
    32-bit values does not leave it.  BT, BTS, BTR and BTC with a register add up to `NEAR` bytes,
    so they are only in the window.  No index is scaled, and no address is in a vector.  An address
    of 32 bits made of the guest's registers is in GS, whose base is r10, and wraps around there.

2.  **A check** is minus the segment's size, plus the offset and the operand's last byte.  Its bit
    63, isolated by SHRX and SHLX, is added to the same offset, in the same register.  The base has
    bit 63 inverted.  An access has at most the checked size, and writes after a check for writes.

    A segment of 64 KiB has an address of its own.  A byte at an offset of 16 bits is in it, and so
    is a constant offset.  For more bytes PDEP moves bit 16 of the offset of the last one, which is
    set exactly beyond the limit, to bit 62; or the offset of the last one, cut to 16 bits, less the
    number of the bytes before it, is the offset of the first one or just below 4 GiB: then the
    access ends in the guard.

3.  **The upper halves stay zero.**  Operands have at most 32 bits, except in the moves, sums and
    shifts that make addresses.  Wherever a guest instruction ends, the fragment is left, or the
    window is accessed, the guest's registers hold 32-bit values.

4.  **No host address reaches the guest**: nothing else computes with one.  A string instruction
    runs on addresses in RSI and RDI, and `scratch` holds, for the fault handler too, what takes
    each back to the guest's value.  Where it is repeated, it begins in the window, or at no
    canonical address, and goes on by elements until a guard ends it: this contract does not say
    that it stays in its segment.

5.  **Nothing sensitive is executed**, nothing that uses the host's stack or RIP, no segment
    override but GS with a 32-bit address.  **The state block** is accessed at constant addresses,
    each with its relocation.  The segments, their selectors, the bases of FS and GS and the
    direction of strings are read; `scratch`, `string_old`, `string_step`, `string_rest`, `ea`,
    `op_info` and `exit_arg` are written, each by the one form that this contract knows.  At CPL 0
    RDTSC is executed, IF is written and the flags are read.  In real and virtual-8086 mode the
    selectors, bases and addresses of CS, ES, DS, FS and GS are written, the last only with r10 plus
    a 32-bit value; at CPL 0 the interrupt table is read, and RFLAGS is written.

6.  **Control** leaves through links, stubs and the jump table, whose index is the low 16 bits of
    r8.  r8 is the target's EIP, with the base of CS in the upper half where CS has a base or a
    limit; the entry for indirect jumps, of which each has one form, compares all of it.  A fragment
    that steps never uses the table.  Other branches lead forward to instructions of the fragment.
    Every link and relocation belongs to an instruction.  A checked translation reads its guest
    bytes, and leaves as stale with its number.

The verifier relies on the run time for the segments' fields, `deposit`, r10 and the base of GS (an
address of a segment of 64 KiB is not canonical if it has another size), and on the fault handler
for RSI and RDI of a string instruction that faults.

Sources: SDM vol. 1 3.3.7 (canonical addresses), 3.4.1.1 (32-bit results); vol. 2A BT, LEA; vol. 2B
SHLX/SHRX.
"""

from ringlet.translate.translator import Translation
from ringlet.translate.verify.narrow.effects import NEAR
from ringlet.translate.verify.narrow.paths import Paths
from ringlet.translate.verify.paths import Violation

__all__ = ["NEAR", "verify_narrow"]


def verify_narrow(translation: Translation) -> list[Violation]:
    """Return the first violation in a translation of 16- or 32-bit code, or an empty list."""
    return Paths(translation).check()
