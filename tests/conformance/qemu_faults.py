"""Checks that QEMU 7.2's TCG is known to fail, each with its defect.

They hold on a real processor by the manual (Intel SDM); every other engine must pass them.
A name may be a shell pattern.
"""

from fnmatch import fnmatchcase

_L_AND_D = "accepts a code segment with L = D = 1 (SDM 2A JMP, IRET: #GP(selector))"
_LATE = "checks a branch's target only at the next fetch, after the branch is done"
_SS_NP = "#NP for a stack segment that is not present (SDM 2A IRET, 2B RET: #SS)"
_IDT_ERROR = "error code of an IDT violation is vector*16+2 in long mode, not vector*8+2"
_UNCHECKED = "takes reserved bits in a control register or MSR"
_FIP = "FXSAVE stores 0 for the x87 pointers"
_FOP = "FXSAVE and FNSTENV store 0 for the x87 opcode"
_EXT = "never sets EXT in an error code"
_LIMITS = "checks no segment limits and types"
_RMW = "reads first, so W is clear in the error code of an instruction that reads and writes"

QEMU_FAULTS: dict[str, str] = {
    "load.ss.null-rpl3.cpl0": "takes a null SS at CPL < 3 whatever its RPL (SDM 2B, MOV)",
    "far-jmp.l-and-d.cpl3": _L_AND_D,
    "iretq.cs-l-and-d": _L_AND_D,
    "iretq.cs-l-and-d.rsp": _L_AND_D,
    "far-jmp.sets-accessed": "a far jump leaves the descriptor's accessed bit clear",
    "far-call.stack-fault": "m16:32 far calls in 64-bit mode truncate RSP to 32 bits",
    "far-call.stack-fault.rsp": "m16:32 far calls in 64-bit mode truncate RSP to 32 bits",
    "lretq.non-canonical.cpl0": _LATE,
    "lretq.non-canonical.cpl3": _LATE,
    "iretq.non-canonical": _LATE,
    "lretq.to-cpl3.ss-not-present": _SS_NP,
    "iretq.to-cpl3-ss-not-present": _SS_NP,
    "int.dpl0.cpl3": _IDT_ERROR,
    "bp.gate-dpl0.cpl3": _IDT_ERROR,
    "ud.lock-*": "accepts LOCK where it is not allowed",
    "ud.pop-group-1.*": "takes 8F /1 for POP",
    "ud.group11-1.*": "takes C7 /1 for MOV",
    "db.icebp.cpl?": "#UD for F1, which raises #DB",
    "step.ac.unaligned": "has no alignment checks",
    "nm.emms.*": "EMMS does not look at CR0.TS and EM",
    "mf.next-x87.cpl?": "only FWAIT looks for a pending x87 exception",
    "xm.*": "has no unmasked SIMD floating-point exceptions",
    "gp.mxcsr-reserved.cpl?": "LDMXCSR accepts reserved bits",
    "ac.am1.ac1.access?.cpl3": "has no alignment check",
    "step.sti.cpl0": "STI's shadow holds a single step back, too",
    "gd.*": "has no general detect",
    "rf.*": "never sets RF in saved flags, and clears it late",
    "gate-of-ud.*": _EXT,
    "stack.ist-beyond-tss.of-ud": _EXT,
    "double.*-then-np.cpl?": _IDT_ERROR,
    "gate.task-gate.cpl?": _IDT_ERROR,
    "gate.call-gate.cpl?": _IDT_ERROR,
    "gate.type-6.cpl?": _IDT_ERROR,
    "gate.not-present": _IDT_ERROR,
    "gate.dpl": _IDT_ERROR,
    "gate.dpl-before-present": _IDT_ERROR,
    "gate.limit-one-short": _IDT_ERROR,
    "gate.non-canonical": "checks a gate's target only at the handler's first fetch",
    "syscall.mask?.flags.cpl?": "SYSCALL loses the arithmetic flags and DF",
    "syscall.lock": "accepts LOCK where it is not allowed",
    "sysret.bad-flags*": "SYSRET takes VM and RF from R11",
    "sysret.non-canonical*": _LATE,
    "sysexit.non-canonical": _LATE,
    "msr.*.non-canonical": "WRMSR does not look whether an address is canonical",
    "msr.*.kept": "WRMSR does not look whether an address is canonical",
    "fsgsbase.non-canonical.cpl?": "WRFSBASE does not look whether an address is canonical",
    "call-gate.conforming.cs": "a gate to conforming code gives CS the descriptor's DPL as RPL",
    "cr0.nw-without-cd": _UNCHECKED,
    "cr0.high-half": _UNCHECKED,
    "cr8.16": _UNCHECKED,
    "cr8.high": _UNCHECKED,
    "cr8.kept": _UNCHECKED,
    "efer.bit*": _UNCHECKED,
    "efer.high-half": _UNCHECKED,
    "pat.bad-type": _UNCHECKED,
    "rdmsr.*": "an MSR it does not know reads as 0",
    "wrmsr.*": "writes of an MSR it does not know are ignored",
    "tsc.msr": "RDMSR of the time-stamp counter gives 0",
    "xsetbv.osxsave-clear.cpl3": "looks at CPL before CR4.OSXSAVE",
    "fxrstor.mxcsr-reserved.cpl?": "FXRSTOR and XRSTOR accept reserved bits of MXCSR",
    "xrstor.mxcsr-reserved.cpl?": "FXRSTOR and XRSTOR accept reserved bits of MXCSR",
    "fop.*.fxsave.cpl?": _FOP,
    "fop.*.fnstenv.cpl?": _FOP,
    "fop.*.opcode*": _FOP,
    "fip.fxsave64.cpl?": _FIP,
    "fip.memory-operand": _FIP,
    "fip.high": _FIP,
    "state.pending-fip-kept": _FIP,
    "fdp.fxsave64": _FIP,
    "ts.xsave*.cpl?": "XSAVE and XRSTOR do not look at CR0.TS",
    "ts.xrstor.cpl?": "XSAVE and XRSTOR do not look at CR0.TS",
    "bit-string.fault.cpl?": _RMW,
    "vmaskmov.*": "VMASKMOVPS touches the elements that are masked off",
    "kind.bts.*": _RMW,
    "kind.xchg.*": _RMW,
    "kind.cmpxchg8b.*": _RMW,
    "hidden.xbegin.cpl?": "has XBEGIN, which aborts, without RTM",
    "hidden.rdseed.cpl?": "has RDSEED whatever CPUID says",
    "hidden.umonitor.cpl?": "takes UMONITOR and TPAUSE for CLFLUSHOPT and CLWB",
    "hidden.tpause.cpl?": "takes UMONITOR and TPAUSE for CLFLUSHOPT and CLWB",
    "hidden.xop.cpl?": "takes 8F with any reg field for POP",
    "hidden.tbm.cpl?": "takes 8F with any reg field for POP",
    "reserved.*": "clears P in the error code of a reserved bit (SDM 3A 4.7: RSVD implies P)",
    "crossing.*-rmw.*-absent.cpl?": _RMW,
    "crossing.*-rmw.*-supervisor.cpl?": _RMW,
    "stack.xchg-rmw.cpl?": _RMW,
    "fetch.non-canonical-*": _LATE,
    "address.fs-null": _LIMITS,
    "compat-limit.*": _LIMITS,
    "old.syscall": "takes SYSCALL in compatibility mode (SDM 2B: #UD)",
    "far.iret-vm": "IRETD enters virtual-8086 mode in IA-32e mode",
    "non-canonical-stack.*": "#GP for every non-canonical address; by RSP and RBP it is #SS",
}


def known_fault(check: str) -> str | None:
    """Return QEMU's defect in `check`, or None if it should pass."""
    return next((why for name, why in QEMU_FAULTS.items() if fnmatchcase(check, name)), None)
