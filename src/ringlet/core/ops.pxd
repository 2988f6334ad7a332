"""The sensitive operations that rules name and the virtual processor performs."""

cpdef enum Op:
    OP_NONE = 0
    # ports
    OP_IN
    OP_OUT
    OP_INS
    OP_OUTS
    # flags
    OP_CLI
    OP_STI
    OP_PUSHF
    OP_POPF
    # interrupts and transfers of privilege
    OP_INT
    OP_INT3
    OP_INT1
    OP_IRET
    OP_SYSCALL
    OP_SYSRET
    OP_SYSENTER
    OP_SYSEXIT
    OP_CALL_FAR
    OP_JMP_FAR
    OP_RET_FAR
    OP_HLT
    # descriptor tables and the machine status word
    OP_SGDT
    OP_SIDT
    OP_SLDT
    OP_STR
    OP_LGDT
    OP_LIDT
    OP_LLDT
    OP_LTR
    OP_SMSW
    OP_LMSW
    OP_CLTS
    # segment registers
    OP_MOV_FROM_SEG
    OP_MOV_TO_SEG
    OP_PUSH_SEG
    OP_POP_SEG
    OP_LOAD_FAR
    OP_LAR
    OP_LSL
    OP_VERR
    OP_VERW
    # control and debug registers
    OP_MOV_FROM_CR
    OP_MOV_TO_CR
    OP_MOV_FROM_DR
    OP_MOV_TO_DR
    # MSRs, time, identification
    OP_RDMSR
    OP_WRMSR
    OP_RDTSC
    OP_RDTSCP
    OP_RDPMC
    OP_RDPID
    OP_CPUID
    OP_XGETBV
    OP_XSETBV
    OP_SWAPGS
    OP_RDFSBASE
    OP_RDGSBASE
    OP_WRFSBASE
    OP_WRGSBASE
    # memory management and caches
    OP_INVLPG
    OP_INVD
    OP_WBINVD
    # images of the floating-point state, which hold RIP, or more components than the guest has
    OP_FXSAVE
    OP_FXRSTOR
    OP_XSAVE
    OP_XSAVEC
    OP_XSAVEOPT
    OP_XSAVES
    OP_XRSTOR
    OP_XRSTORS
    OP_FNSTENV
    OP_FNSAVE
    OP_FLDENV
    OP_FRSTOR
    # everything else that leaves translated code
    OP_ENTER
    OP_SERIALIZE
    OP_NM
    OP_UD
    OP_EMULATE
    # MOV to and from memory that has met a device (ringlet.vcpu.system.devices)
    OP_DEVICE_READ
    OP_DEVICE_WRITE
    OP_INTO
    OP_COUNT
