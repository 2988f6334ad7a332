"""Offsets of `CpuState` fields, for Python and the emitter."""


def offsets() -> dict[str, int]:
    """Return the offset of each field that translated code or Python accesses, by name."""
    cdef CpuState* c = NULL
    return {
        "gpr": <size_t>&c.arch.gpr[0], "rip": <size_t>&c.arch.rip, "iflag": <size_t>&c.arch.iflag,
        "rflags": <size_t>&c.arch.rflags, "arith_mask": <size_t>&c.arith_mask,
        "rsp_naddend": <size_t>&c.rsp_naddend, "fs_host": <size_t>&c.fs_host,
        "gs_host": <size_t>&c.gs_host, "fs_base": <size_t>&c.arch.seg[4].base,
        "gs_base": <size_t>&c.arch.seg[5].base,
        "selectors": <size_t>&c.arch.seg[0].selector,
        "ea": <size_t>&c.ea, "op_info": <size_t>&c.op_info,
        "attention": <size_t>&c.attention, "intr": <size_t>&c.intr,
        "kernel_gs_base": <size_t>&c.arch.kernel_gs_base,
        "tsc_offset": <size_t>&c.arch.tsc_offset,
        "scratch": <size_t>&c.scratch[0], "host_rsp": <size_t>&c.host_rsp,
        "host_flags": <size_t>&c.host_flags, "exit_code": <size_t>&c.exit_code,
        "exit_arg": <size_t>&c.exit_arg, "entry": <size_t>&c.entry,
        "stub": <size_t>&c.stub[0], "xsave": <size_t>&c.xsave[0],
        "segment_host": <size_t>&c.segment_host[0], "segment_at": <size_t>&c.segment_at[0],
        "segment_read": <size_t>&c.segment_read[0], "segment_write": <size_t>&c.segment_write[0],
        "string_old": <size_t>&c.string_old[0], "string_step": <size_t>&c.string_step,
        "held": <size_t>&c.held[0], "remembered": <size_t>&c.remembered[0],
        "cr2": <size_t>&c.arch.cr2,
        "vectors_at": <size_t>&c.vectors_at, "kept_flags": <size_t>&c.kept_flags,
        "interrupt_flag": <size_t>&c.interrupt_flag, "overflow_flag": <size_t>&c.overflow_flag,
        "nmi_blocked": <size_t>&c.arch.nmi_blocked,
        "string_rest": <size_t>&c.string_rest,
        "paragraph_at": <size_t>&c.paragraph_at[0], "deposit": <size_t>&c.deposit,
        "size": sizeof(CpuState),
    }


KEYS_BELOW = <u32>KEY_LIMIT
