"""The way from compiled code into translated code, and back."""
from ringlet.core.state cimport *
from ringlet.core.host cimport host_set_gs_base
from ringlet.core.template cimport STUB_ENTER
from ringlet.mmu.mmu cimport mmu_nowhere
from ringlet.vcpu.system.flatness cimport locate_segments
from ringlet.vcpu.system.registers cimport CR0_AM

cdef enum:
    ALIGN_IN = 1 << 19   # in scratch[2]: set the host's AC flag (ringlet.core.stubs)

cdef inline void show_window(CpuState* c) noexcept nogil:
    """Make GS lead to the window of 16- and 32-bit code; a poisoned addend is not canonical."""
    c.gs_window = c.flat_host
    host_set_gs_base(c.flat_host if c.flat_host >> 47 == 0 else mmu_nowhere(c))


cdef inline void enter_code(CpuState* c, u64 host) noexcept nogil:
    """Run translated code from `host` until it leaves."""
    cdef u64* slots = <u64*>(c.block + (BLOCK_SLOTS_U if c.arch.cpl == 3 else BLOCK_SLOTS_K))
    cdef u64 flags = c.arch.rflags
    cdef u64 base
    cdef u64 addend = slots[(c.arch.gpr[RSP] >> SLOT_SHIFT) & 0xFFFF]
    if not c.key & KEY_MODE64:
        # The host's RSP is the guest's ESP.
        locate_segments(c, c.low_host[c.arch.cpl == 3])
        if c.gs_window != c.flat_host:
            show_window(c)
        c.string_step = 0xFFFFFFFF if flags & FLAG_DF else 1
        addend = 0
    else:
        base = c.arch.seg[SEG_FS].base
        c.fs_host = base + slots[(base >> SLOT_SHIFT) & 0xFFFF]
        base = c.arch.seg[SEG_GS].base
        c.gs_host = base + slots[(base >> SLOT_SHIFT) & 0xFFFF]
    c.rsp_naddend = 0 - addend
    c.scratch[3] = c.arch.gpr[RSP] + addend
    c.scratch[2] = ((flags & 0xD7) << 8) | ((flags >> 11) & 1) | ((flags & FLAG_DF) << 8)
    if flags & FLAG_AC and c.arch.cpl == 3 and c.arch.cr0 & CR0_AM:
        c.scratch[2] |= ALIGN_IN
    # RF lasts for one instruction, so fragments need not check it.
    c.arch.rflags = flags & ~<u64>(FLAGS_HOST | FLAG_RF) | 2
    # These are the exit's flags if the stub returns without entering.
    c.host_flags = flags
    c.entry = host
    c.n_exits += 1
    (<void (*)() noexcept nogil>c.stub[STUB_ENTER])()
    c.arch.rflags |= c.host_flags & FLAGS_HOST
    if c.exit_code <= LEAVE_OP or c.exit_code == LEAVE_STALE:
        c.arch.gpr[RSP] = c.scratch[3] + c.rsp_naddend
