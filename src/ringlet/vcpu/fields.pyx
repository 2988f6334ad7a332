"""The fields of `CpuState` that Python reads and writes by name."""
from ringlet.core.state cimport (
    ArchState, CpuState, RAISED_MAX, Raised, Segment, TableReg, SEG_FS, SEG_GS)

_GENERAL = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
_SEGMENTS = "es cs ss ds fs gs".split()


cdef dict segment(str name, Segment* s):
    return {
        f"{name}.selector": (<size_t>&s.selector, 2), f"{name}.ar": (<size_t>&s.ar, 4),
        f"{name}.limit": (<size_t>&s.limit, 4), f"{name}.base": (<size_t>&s.base, 8),
    }


cdef dict table(str name, TableReg* t):
    return {f"{name}.base": (<size_t>&t.base, 8), f"{name}.limit": (<size_t>&t.limit, 4)}


def _architectural() -> dict[str, tuple[int, int]]:
    cdef ArchState* a = &(<CpuState*>NULL).arch
    cdef int i
    fields = {
        "rip": (<size_t>&a.rip, 8), "iflag": (<size_t>&a.iflag, 8),
        "rflags": (<size_t>&a.rflags, 8), "cpl": (<size_t>&a.cpl, 4),
        "cr0": (<size_t>&a.cr0, 8), "cr2": (<size_t>&a.cr2, 8), "cr3": (<size_t>&a.cr3, 8),
        "cr4": (<size_t>&a.cr4, 8), "cr8": (<size_t>&a.cr8, 8), "efer": (<size_t>&a.efer, 8),
        "xcr0": (<size_t>&a.xcr0, 8), "star": (<size_t>&a.star, 8), "lstar": (<size_t>&a.lstar, 8),
        "cstar": (<size_t>&a.cstar, 8), "sfmask": (<size_t>&a.sfmask, 8),
        "kernel_gs_base": (<size_t>&a.kernel_gs_base, 8),
        "sysenter_cs": (<size_t>&a.sysenter_cs, 8), "sysenter_esp": (<size_t>&a.sysenter_esp, 8),
        "sysenter_eip": (<size_t>&a.sysenter_eip, 8), "tsc_offset": (<size_t>&a.tsc_offset, 8),
        "tsc_aux": (<size_t>&a.tsc_aux, 8), "tsc_adjust": (<size_t>&a.tsc_adjust, 8),
        "tsc_khz": (<size_t>&a.tsc_khz, 8), "apic_base": (<size_t>&a.apic_base, 8),
        "pat": (<size_t>&a.pat, 8), "misc_enable": (<size_t>&a.misc_enable, 8),
        "spec_ctrl": (<size_t>&a.spec_ctrl, 8), "mtrr_def": (<size_t>&a.mtrr_def, 8),
        "debugctl": (<size_t>&a.debugctl, 8), "xss": (<size_t>&a.xss, 8),
        "feature_control": (<size_t>&a.feature_control, 8),
        "db_pending": (<size_t>&a.db_pending, 8), "inhibit": (<size_t>&a.inhibit, 4),
        "halted": (<size_t>&a.halted, 4), "nmi_pending": (<size_t>&a.nmi_pending, 4),
        "nmi_blocked": (<size_t>&a.nmi_blocked, 4),
        "fpu_ip": (<size_t>&a.fpu_restored[0], 8), "fpu_dp": (<size_t>&a.fpu_restored[1], 8),
    }
    for i in range(16):
        fields[_GENERAL[i]] = (<size_t>&a.gpr[i], 8)
    for i in range(8):
        fields[f"dr{i}"] = (<size_t>&a.dr[i], 8)
    for i in range(6):
        fields |= segment(_SEGMENTS[i], &a.seg[i])
    for i in range(20):
        fields[f"mtrr_phys{i}"] = (<size_t>&a.mtrr_phys[i], 8)
    for i in range(11):
        fields[f"mtrr_fixed{i}"] = (<size_t>&a.mtrr_fixed[i], 8)
    return (fields | segment("ldtr", &a.ldtr) | segment("tr", &a.tr)
            | table("gdtr", &a.gdtr) | table("idtr", &a.idtr))


cdef dict raised(str name, Raised* r):
    return {
        f"{name}.vector": (<size_t>&r.vector, 4), f"{name}.error": (<size_t>&r.error, 4),
        f"{name}.source": (<size_t>&r.source, 4), f"{name}.cr2": (<size_t>&r.cr2, 8),
    }


def _others() -> dict[str, tuple[int, int]]:
    cdef CpuState* c = NULL
    cdef int i
    fields = {
        "ea": (<size_t>&c.ea, 8), "key": (<size_t>&c.key, 4), "intr": (<size_t>&c.intr, 4),
        "exc_vector": (<size_t>&c.exc_vector, 4), "exc_error": (<size_t>&c.exc_error, 4),
        "exc_has_error": (<size_t>&c.exc_has_error, 4), "exc_cr2": (<size_t>&c.exc_cr2, 8),
        "exc_is_soft": (<size_t>&c.exc_is_soft, 4), "exc_dr6": (<size_t>&c.exc_dr6, 8),
        "exit_kind": (<size_t>&c.exit_kind, 4), "io_port": (<size_t>&c.io_port, 4),
        "io_size": (<size_t>&c.io_size, 4), "io_count": (<size_t>&c.io_count, 4),
        "io_data": (<size_t>&c.io_data, 8),
        "shutdown_rip": (<size_t>&c.shutdown_rip, 8), "pending": (<size_t>&c.pending, 4),
        "deposit": (<size_t>&c.deposit, 8),
        "fs_host": (<size_t>&c.fs_host, 8), "gs_host": (<size_t>&c.gs_host, 8),
        "n_exceptions": (<size_t>&c.n_exceptions, 8),
        "n_interrupts": (<size_t>&c.n_interrupts, 8),
        "fs_base": (<size_t>&c.arch.seg[SEG_FS].base, 8),
        "gs_base": (<size_t>&c.arch.seg[SEG_GS].base, 8),
        "raised_count": (<size_t>&c.raised_count, 4), "no_handlers": (<size_t>&c.no_handlers, 4),
    }
    fields |= raised("no_handler", &c.no_handler)
    for i in range(RAISED_MAX):
        fields |= raised(f"raised{i}", &c.raised[i])
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
        "device_sites": <size_t>&c.n_device_sites, "device_ends": <size_t>&c.n_device_ends,
        "device_ops": <size_t>&c.n_device_ops, "doorbells": <size_t>&c.n_doorbells,
        "direct_runs": <size_t>&c.n_direct_runs, "direct_calls": <size_t>&c.n_direct_calls,
        "direct_faults": <size_t>&c.n_direct_faults, "direct_steps": <size_t>&c.n_direct_steps,
        "direct_holds": <size_t>&c.n_direct_holds, "direct_spaces": <size_t>&c.n_direct_spaces,
        "direct_backs": <size_t>&c.n_direct_backs, "direct_lost": <size_t>&c.n_direct_lost,
        "jump_tables": <size_t>&c.n_jump_tables, "spaces_full": <size_t>&c.n_spaces_full,
        "groups_full": <size_t>&c.n_groups_full, "regions_full": <size_t>&c.n_regions_full,
        "nodes_full": <size_t>&c.n_nodes_full, "maps_full": <size_t>&c.n_maps_full,
    }


ARCH_FIELDS = _architectural()
"""Offset and size of each field of the architectural state.

RFLAGS has two parts, `iflag` and `rflags`."""

ARCH_SIZE = sizeof(ArchState)
"""Size in bytes of the architectural state, which begins at offset 0."""

FIELDS = ARCH_FIELDS | _others()
"""Offset and size of every field that Python reads or writes."""

COUNTERS = _counters()
"""Offset of each counter; counters have 64 bits."""
