"""What is said of instructions that real mode performs in another way than protected mode."""

from typing import Final, NamedTuple

from ringlet.core.ops import Op


class Reason(NamedTuple):
    """Why an instruction is not copied, and where the SDM says what it does."""

    text: str
    manual: str


_SEGMENT_LOAD: Final = Reason(
    "Loads a segment register: in real mode the selector, and 16 times the selector as the base. "
    "No descriptor is read. Faults: #UD for CS and for registers 6 and 7; those of the memory "
    "operand.",
    "vol. 3A 20.1.1",
)
_FAR: Final = Reason(
    "Loads CS, in real mode the selector and 16 times the selector as the base, and goes on by the "
    "jump table. Faults: those of the stack and of the operand; #GP beyond the limit of CS.",
    "vol. 3A 20.1.1",
)
_FLAGS: Final = Reason(
    "Makes the flags of the host's and the guest's own; a change of DF, TF, IOPL or NT leaves, and "
    "so does one of IF while an interrupt waits. Faults: those of the stack.",
    "vol. 3A 20.1.1",
)
REASONS: Final = {
    Op.OP_MOV_TO_SEG: _SEGMENT_LOAD,
    Op.OP_POP_SEG: _SEGMENT_LOAD,
    Op.OP_LOAD_FAR: _SEGMENT_LOAD,
    Op.OP_CALL_FAR: _FAR,
    Op.OP_JMP_FAR: _FAR,
    Op.OP_RET_FAR: _FAR,
    Op.OP_PUSHF: _FLAGS,
    Op.OP_POPF: _FLAGS,
    Op.OP_INT: Reason(
        "Pushes FLAGS, CS and IP, clears IF, and takes CS and IP from the interrupt table; leaves "
        "if there is no handler. Faults: those of the stack; #GP beyond the limit of the table.",
        "vol. 3A 20.1.4",
    ),
    Op.OP_IRET: Reason(
        "Pops IP, CS and FLAGS; leaves as POPF does. Faults: those of the stack.",
        "vol. 3A 20.1.4",
    ),
}
"""Reasons and places in the manual that are not those of protected mode."""
