"""Memory management, caches, and memory forms that translation cannot rewrite in place."""

from iced_x86 import Code

from ringlet.core.ops import Op
from ringlet.translate.rules.registry import Registry

RULES = Registry()


@RULES.rule(Code.INVLPG_M, manual="vol. 2A INVLPG; vol. 3A 4.10.4")
def invalidate_page() -> Op:
    """Drops a shadow mapping of the virtual MMU; the host raises #GP.

    Faults: #GP(0) if CPL > 0; none of the memory operand, which is not accessed.
    Leaves with its linear address; all of a large page is dropped.
    """
    return Op.OP_INVLPG


@RULES.rule(Code.INVD, manual="vol. 2A INVD; vol. 3A 12.5.5")
def invalidate_caches() -> Op:
    """Empties caches without writing back; the host raises #GP.

    Faults: #GP(0) if CPL > 0.  Leaves; memory is coherent, so nothing is done.
    """
    return Op.OP_INVD


@RULES.rule(Code.WBINVD, manual="vol. 2C WBINVD; vol. 3A 12.5.5")
def write_back_caches() -> Op:
    """Writes caches back and empties them; the host raises #GP.

    Faults: #GP(0) if CPL > 0.  Leaves; memory is coherent, so nothing is done.
    """
    return Op.OP_WBINVD


@RULES.rule(Code.WBNOINVD, manual="vol. 2C WBNOINVD", absent=True)
def write_back_caches_with_f3() -> Op:
    """WBINVD with F3: processors without WBNOINVD ignore the prefix.

    Faults: #GP(0) if CPL > 0.  Leaves as WBINVD does.
    """
    return Op.OP_WBINVD


@RULES.rule(
    Code.ENTERW_IMM16_IMM8, Code.ENTERD_IMM16_IMM8, Code.ENTERQ_IMM16_IMM8, manual="vol. 2A ENTER"
)
def make_stack_frame() -> Op:
    """Accesses up to 32 stack words through two registers that must not change on a fault.

    Faults: #PF or #SS of the stack, the word below the new frame included.  Leaves, then continues:
    not sensitive, but rare, and hard to translate with exact faults.
    """
    return Op.OP_ENTER


@RULES.rule(
    Code.MOV_AL_MOFFS8,
    Code.MOV_AX_MOFFS16,
    Code.MOV_EAX_MOFFS32,
    Code.MOV_RAX_MOFFS64,
    Code.MOV_MOFFS8_AL,
    Code.MOV_MOFFS16_AX,
    Code.MOV_MOFFS32_EAX,
    Code.MOV_MOFFS64_RAX,
    manual="vol. 2B MOV; vol. 2A 2.2.1.4",
)
def move_at_offset() -> Op:
    """Names a 64-bit address outside ModRM, which cannot be rewritten to a window.

    Faults: those of the memory operand.  Leaves for the emulator: rare.
    """
    return Op.OP_EMULATE
