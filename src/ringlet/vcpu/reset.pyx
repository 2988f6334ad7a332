"""The values of a processor's registers after power-up."""
from ringlet.core.control_bits cimport CR0_CD, CR0_ET, CR0_NW, XCR0_X87
from ringlet.core.host cimport host_deposits_fast
from ringlet.core.state cimport (
    CpuState, FLAG_DF, FLAG_IF, FLAG_IOPL, FLAG_NT, FLAG_OF, FLAG_TF, FLAGS_HOST, u8, u16, u32, u64)
from ringlet.vcpu.system.flatness cimport PARAGRAPH_DEPOSIT
from ringlet.vcpu.system.msr cimport reset_msrs

cdef enum:
    CR0_RESET = CR0_ET | CR0_NW | CR0_CD
    DR7_RESET = 0x400
    FCW_RESET = 0x37F      # as FNINIT leaves it: SDM 1 8.1.5
    MXCSR_RESET = 0x1F80
    IMAGE_MXCSR = 24       # in an XSAVE image: SDM 1 table 10-2


cdef void reset(CpuState* c) noexcept nogil:
    cdef u8* image = <u8*>((<u64>&c.xsave[0] + 63) & ~<u64>63)
    c.arith_mask = FLAGS_HOST
    c.kept_flags = FLAG_DF | FLAG_TF | FLAG_IOPL | FLAG_NT
    c.interrupt_flag = FLAG_IF
    c.overflow_flag = FLAG_OF
    c.deposit = PARAGRAPH_DEPOSIT if host_deposits_fast() else 0
    c.arch.rflags = 2
    c.arch.cr0 = CR0_RESET
    c.arch.xcr0 = XCR0_X87
    c.arch.dr[6] = <u64>0xFFFF0FF0
    c.arch.dr[7] = DR7_RESET
    reset_msrs(c)
    (<u16*>image)[0] = FCW_RESET
    (<u32*>(image + IMAGE_MXCSR))[0] = MXCSR_RESET
