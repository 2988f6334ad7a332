"""The one definition of the virtual processor's state.

Cython modules cimport it; the emitter and Python get field offsets from `ringlet.core.state`,
which derives them from this struct.  Names are the SDM's (vol. 3A ch. 2).

Each vCPU has one `CpuState` at the start of a block of host memory below 2 GiB, so that translated
code can address every field as `[disp32]` (see BLOCK_* below).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t, int16_t, int32_t

ctypedef uint8_t u8
ctypedef uint16_t u16
ctypedef uint32_t u32
ctypedef uint64_t u64
ctypedef int64_t i64
ctypedef int16_t i16
ctypedef int32_t i32

# ModRM numbering of the general registers.
cdef enum:
    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7

# ModRM numbering of the segment registers (SDM 2A 3.1.1.3).
cdef enum:
    SEG_ES = 0
    SEG_CS = 1
    SEG_SS = 2
    SEG_DS = 3
    SEG_FS = 4
    SEG_GS = 5
    SEG_NONE = 7

# RFLAGS.
cdef enum:
    FLAG_CF = 1 << 0
    FLAG_PF = 1 << 2
    FLAG_AF = 1 << 4
    FLAG_ZF = 1 << 6
    FLAG_SF = 1 << 7
    FLAG_TF = 1 << 8
    FLAG_IF = 1 << 9
    FLAG_DF = 1 << 10
    FLAG_OF = 1 << 11
    FLAG_IOPL = 3 << 12
    FLAG_NT = 1 << 14
    FLAG_RF = 1 << 16
    FLAG_VM = 1 << 17
    FLAG_AC = 1 << 18
    FLAG_VIF = 1 << 19
    FLAG_VIP = 1 << 20
    FLAG_ID = 1 << 21
    # The flags that live in the host's RFLAGS while translated code runs.
    FLAGS_HOST = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF | FLAG_DF

# Segment access rights, as a descriptor's bytes 5 and 6 (SDM 3A 3.4.5): type 0-3, S 4, DPL 5-6,
# P 7, AVL 12, L 13, D/B 14, G 15; our bit 16 says that the segment register is unusable (null).
cdef enum:
    AR_S = 1 << 4
    AR_P = 1 << 7
    AR_L = 1 << 13
    AR_DB = 1 << 14
    AR_G = 1 << 15
    AR_UNUSABLE = 1 << 16

# Exception vectors (SDM 3A table 6-1).
cdef enum:
    VEC_DE = 0
    VEC_DB = 1
    VEC_NMI = 2
    VEC_BP = 3
    VEC_OF = 4
    VEC_BR = 5
    VEC_UD = 6
    VEC_NM = 7
    VEC_DF = 8
    VEC_TS = 10
    VEC_NP = 11
    VEC_SS = 12
    VEC_GP = 13
    VEC_PF = 14
    VEC_MF = 16
    VEC_AC = 17
    VEC_MC = 18
    VEC_XM = 19

# Memory access kinds: the bits of a #PF error code (SDM 3A 4.7).
cdef enum:
    ACC_READ = 0
    PF_P = 1
    ACC_WRITE = 2
    ACC_USER = 4
    PF_RSVD = 8
    ACC_FETCH = 16

# Results of a memory access by the virtual processor.
cdef enum:
    MEM_OK = 0
    MEM_FAULT = 1  # the guest's exception is in exc_*
    MEM_MMIO = 2   # there is no RAM: the guest physical address is in mmio_phys

# Results of the emulation of one instruction.
cdef enum:
    EMU_NEXT = 0      # done; rip is past it, and neither mode nor mappings changed
    EMU_FLOW = 1      # done; rip, CPL, mode or an address mapping changed: dispatch again
    EMU_FAULT = 2     # the guest's exception is in exc_*; nothing architectural changed
    EMU_EXIT = 3      # Python has to act: exit_kind and its fields are filled

# The reason for which the run loop returned to Python.
cpdef enum Exit:
    EXIT_NONE = 0
    EXIT_IO_IN = 1       # io_port, io_size, io_count (1 or a string's), io_data filled by Python
    EXIT_IO_OUT = 2      # io_port, io_size, io_data
    EXIT_MMIO_READ = 3   # mmio_phys, io_size, io_data filled by Python
    EXIT_MMIO_WRITE = 4  # mmio_phys, io_size, io_data
    EXIT_HLT = 5         # halted with no interrupt pending
    EXIT_SHUTDOWN = 6    # triple fault; shutdown_rip
    EXIT_INTERRUPTED = 7 # a stop was requested (kick)
    EXIT_WINDOW = 8      # the machine's controller has an interrupt, and it can be delivered
    EXIT_EMULATE = 11    # op_info's instruction needs the general emulator (Python)
    EXIT_LEARN = 12      # the translator found an instruction shape that it has not learned
    EXIT_EOI = 13        # the guest has ended a level-triggered interrupt, vector io_data
    EXIT_DEBUG = 14      # stopped for a debugger (ringlet.vcpu.debug.stops)
    EXIT_NO_RAM = 15     # the guest executes where there is no RAM
    EXIT_BLOCK = 17      # a block begins, as requested (ringlet.vcpu.debug.blocks)
    EXIT_DIRECT = 18     # a direct process is wanted (ringlet.vcpu.direct)

# The ways in which translated code leaves.
cdef enum:
    LEAVE_LINK = 1       # an unlinked direct jump: exit_arg is the link's number
    LEAVE_INDIRECT = 2   # an indirect jump missed its table: rip is the target
    LEAVE_OP = 3         # op_info
    LEAVE_FAULT = 4      # a host signal that is the guest's exception: exc_*
    LEAVE_SAFEPOINT = 5  # on request, before the next instruction
    LEAVE_AGAIN = 6      # a binding is stale: dispatch the same instruction again
    LEAVE_EMULATE = 7    # the instruction at rip needs the general emulator
    LEAVE_STEPPED = 8    # the instruction before rip is done, by steps or in its own fragment
    LEAVE_STALE = 9      # the guest bytes of fragment exit_arg have changed
    LEAVE_UNKNOWN = 10   # a fault in fragment exit_arg, at an instruction of unknown shape

# A translation's key: the state of the processor on which a translation depends.  A translation for
# one key never runs under another (ringlet.cache).
cpdef enum Key:
    KEY_CPL = 3          # bits 0-1: CPL
    KEY_MODE16 = 1 << 2  # 16-bit code segment
    KEY_MODE32 = 1 << 3  # 32-bit code segment (protected or compatibility)
    KEY_MODE64 = 1 << 4  # 64-bit mode
    KEY_NM = 1 << 5      # CR0.TS or CR0.EM: x87/SSE/AVX raise #NM or #UD
    KEY_NOSSE = 1 << 6   # CR4.OSFXSR = 0: SSE raises #UD
    KEY_NOAVX = 1 << 7   # CR4.OSXSAVE = 0 or XCR0 without AVX: VEX raises #UD
    KEY_STEP = 1 << 8    # RFLAGS.TF, a breakpoint or a debugger: one instruction per fragment
    KEY_EM = 1 << 9      # CR0.EM rather than TS
    # Outside 64-bit mode; without these bits CS, DS, ES and SS are flat, and the stack has 32 bits.
    KEY_SEGMENTED = 1 << 10   # DS, ES or SS is not flat
    KEY_STACK16 = 1 << 11     # the stack pointer is SP
    KEY_CS64K = 1 << 12       # CS has a limit of 64 KiB
    KEY_CS_ODD = 1 << 13      # CS has another limit; with KEY_CS64K: 4 GiB, but a base
    KEY_DATA64K = 1 << 14     # with KEY_SEGMENTED and KEY_STACK16: DS, ES and SS have 64 KiB
    KEY_PARAGRAPHS = 1 << 15  # with KEY_DATA64K: a load of a segment register sets its base alone
    KEY_LIMITED = 1 << 16     # without KEY_SEGMENTED: FS or GS has a limit, and is checked

cdef enum:
    KEY_LIMIT = 1 << 17  # every key is less than this
# Behaviour in which the vendors differ (ringlet.arch.vendors.Conduct).
cdef enum:
    CONDUCT_FLAGS_WITH_LAST_COMPARISON = 1 << 4
    CONDUCT_XSAVE_STACK_BEFORE_ALIGNMENT = 1 << 5
    CONDUCT_REPE_CMPSB_TARGET_FIRST = 1 << 6
    CONDUCT_LOOP_TAKES_REPETITION = 1 << 8

cdef struct Segment:
    u16 selector
    u16 pad
    u32 ar
    u32 limit
    u32 pad2
    u64 base

# A descriptor, as translated code recognizes it (narrow.selectors).
cdef struct Held:
    u32 selector  # minus the selector; or 1, which none is
    u32 at        # linear address of the descriptor
    u32 low       # minus its halves
    u32 high

# What a load of FS or GS at CPL 0 gave, and the same load gives again.
cdef struct Remembered:
    Segment segment
    u64 host      # segment_host with this segment
    Held held     # `at` is 0 for a null selector

cdef struct TableReg:
    u64 base
    u32 limit
    u32 pad

# One sensitive instruction at one place, as the translator decoded it.  Translated code leaves
# its address in `op_info`; `ea` holds the linear address of its memory operand, if it has one.
cdef struct OpInfo:
    u64 rip       # guest linear address of the instruction
    u64 imm       # immediate, sign-extended; ENTER: level << 16 | size
    u64 resume    # host address at which to continue after EMU_NEXT
    u16 op        # Op
    u8 size       # operand size in bytes
    u8 length     # instruction length in bytes
    u8 reg        # ModRM.reg with REX.R (or the register in the opcode)
    u8 rm         # ModRM.rm with REX.B of a register form, 0xFF for memory
    u8 seg        # segment override or SEG_NONE
    u8 flags      # OPF_*
    u8 bytes[16]  # the instruction itself, zero padded

cdef enum:
    OPF_REP = 1     # F3
    OPF_REPNE = 2   # F2
    OPF_LOCK = 4
    OPF_ADDR32 = 8  # 67h
    OPF_REXW = 16
    OPF_HIGH = 32   # of a device's MOV: the register is AH, CH, DH or BH, named as RAX to RBX
    OPF_SIGN = 64   # it extends the value by its sign

# An exception, interrupt or NMI during its delivery (ringlet.vcpu.loop.exceptions).
cdef struct Event:
    u32 vector
    u32 error
    u32 has_error
    u32 source
    u64 rip         # RIP to push
    u64 rflags      # RFLAGS to push, with RF as in SDM 3B 17.3.1.1
    u64 at          # RIP at which it occurred
    int first       # class of the exception before it, or its own

# An event, for the report of what led to a guest's end.  The longest series in a triple fault is
# that of a benign one, a contributory exception, two #PFs, #DF, and one in the delivery of #DF.
cdef struct Raised:
    u32 vector
    u32 error       # valid if the vector has an error code
    u32 source      # ringlet.vcpu.loop.gates.Source
    u64 cr2         # CR2 at that time

cdef enum:
    RAISED_MAX = 6

# The architectural state: everything that the guest can observe or has set.  Only this state is
# saved, compared and shown.  ringlet.vcpu.fields lists its fields by name, and
# tests/unit/vcpu/test_fields.py checks that none is missing.  Vector and x87 state is in
# CpuState.xsave, the local APIC's in ApicState.
cdef struct ArchState:
    # --- translated code reaches these; they stay in the first 4 KiB of the block
    u64 gpr[16]          # guest registers when outside the code cache; r8-r11 always
    u64 rip              # guest RIP when outside the code cache
    u64 iflag            # RFLAGS.IF as 0 or 0x200; `rflags` does not hold it
    u64 rflags           # all other RFLAGS bits; FLAGS_HOST bits only when outside the code cache
    # --- system registers
    u64 cr0, cr2, cr3, cr4, cr8
    u64 efer, xcr0
    u64 dr[8]
    Segment seg[6]
    Segment ldtr, tr
    TableReg gdtr, idtr
    # --- MSRs (SDM vol. 4)
    u64 star, lstar, cstar, sfmask, kernel_gs_base
    u64 sysenter_cs, sysenter_esp, sysenter_eip
    u64 tsc_offset, tsc_aux, tsc_adjust, tsc_khz
    u64 apic_base, pat, misc_enable, spec_ctrl, mtrr_def, debugctl, xss, feature_control
    u64 mtrr_phys[20]
    u64 mtrr_fixed[11]
    # --- between instructions
    u64 db_pending       # DR6.B0-B3 of completed accesses, to raise after the instruction
    u64 fpu_restored[2]  # x87 instruction and data pointer as the guest last loaded them
    u32 cpl
    u32 inhibit          # interrupt shadow (ringlet.vcpu.loop.events)
    u32 halted           # in HLT: no instruction is executed before an event
    u32 nmi_pending
    u32 nmi_blocked
    u32 pad

cdef struct CpuState:
    ArchState arch
    # --- other fields that translated code accesses; they too must stay in the first 4 KiB
    u64 arith_mask       # constant FLAGS_HOST, for PEXT/PDEP
    u64 rsp_naddend      # the negated addend of the host's RSP while in the code cache
    u64 fs_host          # host address of FS base (FS base + its slot's addend)
    u64 gs_host
    u64 flat_host        # host address of linear address 0, in code that is not 64-bit
    u64 gs_window        # the flat_host that the base of the host's GS was set for
    u64 gs_before        # the base of the host's GS before the run
    u64 low_host[2]      # the same at CPL 0-2 and 3: the addends of SLOT_LOW
    u64 segment_host[6]  # the same for FS and GS, if they have 4 GiB to read and write
    u64 segment_at[6]    # of a first byte, bit 63 inverted (ringlet.translate.narrow.segments)
    u64 segment_read[6]  # less its size in bytes; 0: it cannot be read, or has another form
    u64 segment_write[6] # the same for writes
    u64 paragraph_at[6]  # host address of a segment of 64 KiB; not canonical if it has another size
    u64 vectors_at       # host address of real mode's interrupt table; not canonical if shorter
    u64 kept_flags       # constant DF, TF, IOPL and NT, for PEXT
    u64 interrupt_flag   # constant IF
    u64 overflow_flag    # constant OF
    Held held[6]         # of ES and DS: with what a load at CPL 0 changes nothing
    Remembered remembered[4] # two of FS, two of GS
    u64 deposit          # constant PARAGRAPH_DEPOSIT, for PDEP
    u64 string_old[2]    # ESI and EDI before a string instruction
    u64 string_step      # 32 bits: 1, or -1 with DF, in code that is not 64-bit
    u64 string_rest      # what to add to RCX when a repetition is over, or faults
    u64 ea               # linear address of the memory operand of op_info
    u64 op_info          # OpInfo*
    u64 attention        # 1: leave at the next safepoint (ringlet.core.prod)
    u64 scratch[4]
    u64 host_rsp
    u64 host_flags
    u64 exit_code        # how translated code left: Leave
    u64 exit_arg
    u64 entry            # host address at which to enter
    u64 stub[8]          # host addresses of the stubs
    u64 completing       # 1 + the dropped fragment in which a store is being completed
    u64 again            # RIP of the last stale binding, to detect a lack of progress
    # --- events
    u32 stop             # another thread asks the run loop to return (kick)
    u32 intr             # INTR_*: interrupts that wait for IF (ringlet.vcpu.apic.local)
    u32 sleeping         # in HLT, until `attention` (ringlet.core.alarm)
    u32 patient          # HLT waits in the run loop instead of leaving
    TableReg remembered_in  # the GDTR with which `remembered` was filled
    u32 key              # KEY_*: recomputed by update_key()
    # --- the exception being raised
    u32 exc_vector
    u32 exc_error
    u32 exc_has_error
    u32 exc_is_soft      # INT n, INT3, INTO: pushes the next RIP, checks the gate's DPL
    u64 exc_cr2
    u64 exc_dr6          # bits to set in DR6 for #DB
    u64 pf_rip           # RIP of the last #PF, to which its handler's IRET should return
    u64 pf_linear        # address and kind (ACC_*) of its access
    u32 pf_access
    u32 pf_waits         # that IRET has not been executed yet
    # --- exits to Python
    u32 exit_kind
    u32 io_port
    u32 io_size
    u32 io_count
    u64 io_data
    u64 mmio_phys
    u64 mmio_linear
    u64 shutdown_rip
    Raised raised[RAISED_MAX] # the last event, then the exceptions that its delivery has raised
    Raised no_handler    # the first event whose vector of real mode was 0000:0000
    u32 raised_count
    u32 no_handlers      # number of such events
    # --- other parts of the virtual machine that compiled code uses
    void* mmu            # ringlet.mmu.layout.Mmu*
    void* cache          # ringlet.cache.codecache.Cache*
    void* shapes[3]      # ringlet.translate.insn.ShapeTable* of 64-, 32- and 16-bit code
    void* kept           # ringlet.translate.kept.Kept*, or NULL
    void* direct         # ringlet.vcpu.direct.target.DirectState*, or NULL
    void* blocks         # ringlet.vcpu.debug.blocks.Blocks*, or NULL
    void* cpuid          # CpuidEntry[], cpuid_count of them
    u64 cpuid_count
    u64 conduct          # CONDUCT_*: behaviour of the vendor's processors
    u64 block            # host address of the block that contains this struct
    void* fpu_pointer    # fpu_pointer_fn (ringlet.vcpu.system.fpstate), or NULL
    u64 resume           # where to continue after an exit to Python, if nothing has changed; or 0
    u64 resume_rip       # values that must not have changed: RIP, base of CS, key, Cache.drops
    u64 resume_base
    u32 resume_key
    u32 resume_drops
    u32 running          # a thread is in the run loop
    u32 prodding         # the timer that makes it leave was armed (ringlet.core.prod)
    void* prod           # a POSIX timer that signals `prod_thread`
    void* alarm          # ringlet.core.alarm
    void* apic           # ringlet.vcpu.apic.local.Apic*
    void* debugger       # ringlet.vcpu.debug.stops.Debugger*, or NULL
    void* sites          # ringlet.vcpu.system.sites.Sites*, or NULL
    void* doorbells      # ringlet.vcpu.system.doorbells.Doorbells*, or NULL
    u64 alarm_due        # host's TSC at which the machine wants a stop, or 0
    u64 prod_thread
    int direct_pidfd     # of the direct process that runs, or 0: a request to stop goes there
    u32 direct_held      # CPL 3 runs translated until it is entered anew
    u32 direct_tries     # to stop the direct process
    u32 alone            # the next instruction has a fragment of its own, as if it were stepped
    u32 met_device       # 1 + the fragment whose instruction faulted at a device, or 0
    u64 native           # host address of the code of single emulated instructions, or 0
    u64 native_leave     # where such an instruction continues after a host fault
    u64 native_vector    # that fault's vector; NATIVE_DONE: none
    u8 insn[16]          # the instruction for the general emulator, as it was fetched
    # --- an instruction that left for Python and is not finished (ringlet.vcpu.system.dispatch)
    u32 pending          # PENDING_*
    u32 device_waits     # it waits for a device's answer (ringlet.vcpu.system.mmio)
    u32 device_done      # number of device accesses that it has made
    u32 device_at        # number of those that it has passed again after its restart
    OpInfo pending_op
    u64 pending_data     # the value that INS has read
    Event event          # the event whose delivery waits for a device
    # --- counters: one name, one unit, one reader (ringlet stats)
    u64 n_exits, n_ops, n_links, n_indirect_misses, n_lookups
    u64 n_fragments, n_guest_insns, n_code_bytes, n_guest_bytes
    u64 n_shadow_faults, n_shadow_pages, n_guest_faults, n_interrupts, n_exceptions
    u64 n_smc, n_flushes, n_cr3_loads, n_cr3_dropped, n_invlpg, n_python_exits
    u64 n_safepoints, n_stale, n_kept, n_halts, n_cpuid, n_msr_reads, n_msr_writes
    u64 n_mmio_reads, n_mmio_writes, n_jump_tables
    u64 n_device_sites, n_device_ends, n_device_ops, n_doorbells
    u64 n_direct_runs, n_direct_calls, n_direct_faults, n_direct_steps, n_direct_holds
    u64 n_direct_spaces, n_direct_backs, n_direct_lost
    u64 n_spaces_full, n_groups_full, n_regions_full, n_nodes_full, n_maps_full
    # --- vector and x87 state while outside the code cache in Python (64-byte aligned by us)
    u8 pad_xsave[64]
    u8 xsave[4096]
    u64 device_data[512]  # DEVICE_MAX: what devices have answered (ringlet.vcpu.system.mmio)

# Maximum number of device accesses in one instruction; save areas need the most.  Beyond it, reads
# give all ones and writes are dropped.
cdef enum:
    DEVICE_MAX = 512

cdef struct CpuidEntry:
    u32 leaf
    u32 subleaf
    u32 flags     # 1: subleaf is significant
    u32 eax, ebx, ecx, edx

# The block of host memory below 2 GiB that translated code addresses as [disp32].
cdef enum:
    BLOCK_STATE = 0
    BLOCK_BOUNCE = 0x20000         # 64 KiB: operands of emulated instructions (vcpu.emulation)
    BLOCK_SLOTS_K = 0x100000       # 65,536 addends for CPL 0-2
    BLOCK_NSLOTS_K = 0x180000      # the same, negated
    BLOCK_SLOTS_U = 0x200000       # for CPL 3
    BLOCK_NSLOTS_U = 0x280000
    BLOCK_JUMPS = 0x300000         # BLOCK_TABLES tables of indirect targets (ringlet.cache.jumps)
    BLOCK_PREDICTED = 0x700000     # predictions of slots (ringlet.core.template)
    BLOCK_SIZE = 0x710000
    PREDICTED_COUNT = 0x4000

# A jump table: host addresses, indexed by the low 16 bits of the target's linear address.
cdef enum:
    JUMP_TABLES = 48
    BLOCK_TABLES = 8     # of these; the others are made when they are wanted
    JUMP_TABLE_BYTES = 0x80000

# Size of the code of single emulated instructions, and native_vector if none has faulted.
cdef enum:
    NATIVE_SIZE = 0x10000
    NATIVE_DONE = 0xFF

# Slots: bits 51..36 of a linear address, and one more: the first 4 GiB, for 16- and 32-bit code.
cdef enum:
    SLOT_SHIFT = 36
    SLOT_COUNT = 65536
    SLOT_LOW = 65536

cdef inline u64 get_rflags(CpuState* c) noexcept nogil:
    return (c.arch.rflags & ~<u64>FLAG_IF) | c.arch.iflag | 2

cdef inline void set_rflags(CpuState* c, u64 value) noexcept nogil:
    c.arch.iflag = value & FLAG_IF
    c.arch.rflags = (value & 0x3F7FD5) & ~<u64>FLAG_IF | 2

cdef inline int raise_exc(CpuState* c, u32 vector) noexcept nogil:
    c.exc_vector = vector
    c.exc_has_error = 0
    c.exc_error = 0
    c.exc_is_soft = 0
    return EMU_FAULT

cdef inline int raise_err(CpuState* c, u32 vector, u32 error) noexcept nogil:
    c.exc_vector = vector
    c.exc_has_error = 1
    c.exc_error = error
    c.exc_is_soft = 0
    return EMU_FAULT

cdef inline u64 code_linear(CpuState* c, u64 rip) noexcept nogil:
    """Return the linear address of the code at `rip`; only 64-bit mode ignores CS.base."""
    return rip if c.key & KEY_MODE64 else <u32>(rip + c.arch.seg[SEG_CS].base)

cdef inline u32 narrowed(CpuState* c, u32 key) noexcept nogil:
    """Truncate the registers that code of `key` has 32 bits of; return `key`."""
    cdef u32 i
    if not key & KEY_MODE64:
        for i in range(8):
            c.arch.gpr[i] = <u32>c.arch.gpr[i]
        c.arch.rip = <u32>c.arch.rip
    return key

cdef inline bint is_canonical(u64 linear) noexcept nogil:
    return (<u64>((<i64>(linear << 16)) >> 16)) == linear
