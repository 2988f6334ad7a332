"""The fields of `CpuState` that Python reads and writes by name."""
from ringlet.core.state cimport CpuState, SEG_FS, SEG_GS


def _fields() -> dict[str, tuple[int, int]]:
    cdef CpuState* c = NULL
    cdef int i
    names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
    fields = {}
    for i in range(16):
        fields[names[i]] = (<size_t>&c.gpr[i], 8)
    for i in range(8):
        fields[f"dr{i}"] = (<size_t>&c.dr[i], 8)
    fields.update({
        "rip": (<size_t>&c.rip, 8), "ea": (<size_t>&c.ea, 8), "iflag": (<size_t>&c.iflag, 8),
        "cr0": (<size_t>&c.cr0, 8), "cr2": (<size_t>&c.cr2, 8), "cr3": (<size_t>&c.cr3, 8),
        "cr4": (<size_t>&c.cr4, 8), "cr8": (<size_t>&c.cr8, 8), "efer": (<size_t>&c.efer, 8),
        "xcr0": (<size_t>&c.xcr0, 8), "cpl": (<size_t>&c.cpl, 4), "key": (<size_t>&c.key, 4),
        "star": (<size_t>&c.star, 8), "lstar": (<size_t>&c.lstar, 8),
        "cstar": (<size_t>&c.cstar, 8), "sfmask": (<size_t>&c.sfmask, 8),
        "kernel_gs_base": (<size_t>&c.kernel_gs_base, 8),
        "sysenter_cs": (<size_t>&c.sysenter_cs, 8), "sysenter_esp": (<size_t>&c.sysenter_esp, 8),
        "sysenter_eip": (<size_t>&c.sysenter_eip, 8), "tsc_offset": (<size_t>&c.tsc_offset, 8),
        "tsc_adjust": (<size_t>&c.tsc_adjust, 8), "tsc_aux": (<size_t>&c.tsc_aux, 8),
        "tsc_khz": (<size_t>&c.tsc_khz, 8), "apic_base": (<size_t>&c.apic_base, 8),
        "misc_enable": (<size_t>&c.misc_enable, 8), "pat": (<size_t>&c.pat, 8),
        "inhibit": (<size_t>&c.inhibit, 4), "intr": (<size_t>&c.intr, 4),
        "halted": (<size_t>&c.halted, 4), "nmi_pending": (<size_t>&c.nmi_pending, 4),
        "nmi_blocked": (<size_t>&c.nmi_blocked, 4),
        "exc_vector": (<size_t>&c.exc_vector, 4), "exc_error": (<size_t>&c.exc_error, 4),
        "exc_has_error": (<size_t>&c.exc_has_error, 4), "exc_cr2": (<size_t>&c.exc_cr2, 8),
        "exc_is_soft": (<size_t>&c.exc_is_soft, 4), "exc_dr6": (<size_t>&c.exc_dr6, 8),
        "exit_kind": (<size_t>&c.exit_kind, 4), "io_port": (<size_t>&c.io_port, 4),
        "io_size": (<size_t>&c.io_size, 4), "io_count": (<size_t>&c.io_count, 4),
        "io_data": (<size_t>&c.io_data, 8),
        "shutdown_rip": (<size_t>&c.shutdown_rip, 8), "pending": (<size_t>&c.pending, 4),
        "fs_base": (<size_t>&c.seg[SEG_FS].base, 8), "gs_base": (<size_t>&c.seg[SEG_GS].base, 8),
        "fs_host": (<size_t>&c.fs_host, 8), "gs_host": (<size_t>&c.gs_host, 8),
    })
    return fields


def _counters() -> dict[str, int]:
    cdef CpuState* c = NULL
    return {
        "exits": <size_t>&c.n_exits, "ops": <size_t>&c.n_ops,
        "links": <size_t>&c.n_links, "indirect_misses": <size_t>&c.n_indirect_misses,
        "lookups": <size_t>&c.n_lookups, "fragments": <size_t>&c.n_fragments,
        "guest_instructions": <size_t>&c.n_guest_insns,
        "code_bytes": <size_t>&c.n_code_bytes, "guest_bytes": <size_t>&c.n_guest_bytes,
        "shadow_faults": <size_t>&c.n_shadow_faults, "shadow_pages": <size_t>&c.n_shadow_pages,
        "guest_faults": <size_t>&c.n_guest_faults, "interrupts": <size_t>&c.n_interrupts,
        "exceptions": <size_t>&c.n_exceptions, "code_writes": <size_t>&c.n_smc,
        "stale_fragments": <size_t>&c.n_stale, "kept_fragments": <size_t>&c.n_kept,
        "flushes": <size_t>&c.n_flushes,
        "cr3_loads": <size_t>&c.n_cr3_loads, "cr3_dropped": <size_t>&c.n_cr3_dropped,
        "invlpg": <size_t>&c.n_invlpg, "python_exits": <size_t>&c.n_python_exits,
        "safepoints": <size_t>&c.n_safepoints, "halts": <size_t>&c.n_halts,
        "cpuid": <size_t>&c.n_cpuid, "msr_reads": <size_t>&c.n_msr_reads,
        "msr_writes": <size_t>&c.n_msr_writes, "mmio_reads": <size_t>&c.n_mmio_reads,
        "mmio_writes": <size_t>&c.n_mmio_writes,
        "jump_tables": <size_t>&c.n_jump_tables,
    }


FIELDS = _fields()
"""Offset and size of registers and other fields; RFLAGS, which is in two parts, is not one."""

COUNTERS = _counters()
"""Offset of counters of 64 bits."""
