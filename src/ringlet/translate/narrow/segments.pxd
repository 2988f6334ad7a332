"""Operands in segments, and the stack, of 16- and 32-bit code."""
from ringlet.core.state cimport u8, u32, i32
from ringlet.translate.builder cimport Builder, Ref
from ringlet.translate.insn cimport Insn

# Emit code that checks `size` bytes at the offset in r9; return the host operand, made of r8 and
# r9.  With KEY_DATA64K the offset has 16 bits, and a write is not for CS.
cdef Ref in_segment(Builder* b, u32 seg, u32 size, bint write) noexcept nogil
# The same with KEY_DATA64K at the sum of two registers or NO_REG and a displacement, of 16 bits.
cdef Ref sum_in_64k(Builder* b, u32 seg, u8 base, u8 index, i32 disp, u32 size) noexcept nogil
# Whether accesses in the segment that an instruction names are checked.
cdef bint is_checked(Builder* b, u32 seg) noexcept nogil
# Whether the operand's segment and address size are for translated code.
cdef bint allows(Builder* b, Insn* i, bint write) noexcept nogil
# Emit code that computes the address of the ModRM or moffs operand, and return the host operand.
# `moved` bytes are added to one based on ESP.
cdef Ref operand(Builder* b, Insn* i, u32 size, bint write, i32 moved) noexcept nogil
# The same for the instruction that is emitted next, which is not BT with a register or the like.
cdef Ref operand_of_next(Builder* b, Insn* i, u32 size, bint write) noexcept nogil
# The same of `size` bytes on the stack, `disp` bytes from its pointer.
cdef Ref stack_operand(Builder* b, i32 disp, u32 size, bint write) noexcept nogil
# Move the stack pointer, without changing a flag.
cdef void move_sp(Builder* b, i32 by) noexcept nogil
# An instruction with a register and memory of 1, 2 or 4 bytes, such as MOV: 8Bh loads, 89h stores.
cdef void move(Builder* b, u32 opcode, u32 reg, Ref* mem, u32 size) noexcept nogil
# `mov r11d, 63`: what r11 holds between instructions.
cdef inline void restore_r11(Builder* b) noexcept nogil:
    b.out[b.n] = 0x41
    b.out[b.n + 1] = 0xBB
    (<u32*>(b.out + b.n + 2))[0] = 63
    b.n += 6
