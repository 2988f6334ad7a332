"""Which instructions are for translated code, and what of them iced-x86 does not say: rule 5."""

from collections.abc import Iterator
from typing import Final

from iced_x86 import (
    Code,
    CodeSize,
    EncodingKind,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
    UsedMemory,
)

from ringlet.translate.classify import Innocuous, classify
from ringlet.translate.verify.narrow.values import GENERAL, UnsoundError, full

FACTORY: Final = InstructionInfoFactory()
WRITES: Final = frozenset(
    {OpAccess.WRITE, OpAccess.READ_WRITE, OpAccess.COND_WRITE, OpAccess.READ_COND_WRITE}
)
# They may leave their destination as it was, with its upper half.
_UNSURE: Final = frozenset({Mnemonic.BSF, Mnemonic.BSR, Mnemonic.CMPXCHG})
_GS: Final = frozenset({Register.GS})
_PREFIXES: Final = frozenset(bytes.fromhex("262e363e64656667f0f2f3"))


def written(i: Instruction) -> Iterator[tuple[Register_, bool]]:
    """Yield the general registers that `i` may write, and whether it certainly does."""
    for used in FACTORY.info(i).used_registers():
        if RegisterExt.is_gpr(used.register) and used.access in WRITES:
            sure = used.access in (OpAccess.WRITE, OpAccess.READ_WRITE)
            yield used.register, sure and i.mnemonic not in _UNSURE


def through_gs(m: UsedMemory) -> bool:
    """Whether the address is a 32-bit sum of the guest's registers in GS, the whole window."""
    return (
        m.segment in _GS
        and m.address_size == CodeSize.CODE32
        and all(not r or full(r) in GENERAL for r in (m.base, m.index))
    )


def address(m: UsedMemory) -> None:
    """Raise if the address is not a sum of 64-bit registers.

    XLATB, which adds AL, has such an address.
    """
    if m.segment in _GS:
        raise UnsoundError("it uses GS with another address than one of 32 bits")
    if m.address_size != CodeSize.CODE64:
        raise UnsoundError("its address is cut to 32 bits")
    if any(r and not RegisterExt.is_gpr64(r) for r in (m.base, m.index)):
        raise UnsoundError("its address has a part that is no 64-bit register")


def allow(i: Instruction) -> None:
    """Raise if the instruction is not for translated code (rule 5)."""
    if i.code == Code.INVALID:
        raise UnsoundError("it cannot be decoded")
    if i.is_stack_instruction:
        raise UnsoundError("it uses the host's stack")
    if not isinstance(classify(i.code), Innocuous):
        raise UnsoundError("it is sensitive")
    if i.segment_prefix not in (Register.NONE, Register.GS):
        raise UnsoundError("it has a segment override")
    if i.is_ip_rel_memory_operand:
        raise UnsoundError("its address is relative to the host's RIP")
    if i.is_vsib:
        raise UnsoundError("its addresses are in a vector")
    if i.flow_control != FlowControl.NEXT:
        raise UnsoundError("it leaves by itself")


def is_wide(i: Instruction, data: bytes) -> bool:
    """Whether the operand size, or a register that is an operand, has 64 bits.

    REX.W tells it of instructions with operands that are implicit or in memory (SDM vol. 2A 2.2.1).
    """
    for number in range(i.op_count):
        if i.op_kind(number) == OpKind.REGISTER and RegisterExt.is_gpr64(i.op_register(number)):
            return True
    if i.encoding != EncodingKind.LEGACY:
        return False
    rex = 0
    for byte in data:
        if byte & 0xF0 == 0x40:
            rex = byte
        elif byte in _PREFIXES:
            rex = 0  # REX counts only right before the opcode
        else:
            break
    return bool(rex & 8)
