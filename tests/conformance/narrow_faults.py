"""Checks of 16- and 32-bit code that QEMU 7.2's TCG is known to fail, each with its defect.

They hold on a real processor by the manual (Intel SDM); Ringlet must pass them.  A name may be a
shell pattern.
"""

from fnmatch import fnmatchcase

_LIMIT = "checks no segment limits in 16- and 32-bit code"
_TYPE = "writes read-only segments and code"
_SS_NP = "#TS for an inner stack segment that is not present (SDM 3A 6.12.1: #SS)"
_EXT = "never sets EXT in an error code"
_VME = "has neither CR4.VME nor PVI"
_RSVD = "clears P in the error code of a reserved bit (SDM 3A 4.7: RSVD implies P)"
_RF = "never sets RF in saved flags"

NARROW_FAULTS: dict[str, str] = {
    "hello.ud.rf.cpl?": _RF,
    "bound.16.limit": _LIMIT,
    "arpl.read-only": _TYPE,
    "pusha.*.odd-sp*": _LIMIT,
    "[dfs]s.*.beyond": _LIMIT,
    "[dfs]s.*.before": _LIMIT,
    "[df]s.read-only.write*": _TYPE,
    "[df]s.down16-read-only.write*": _TYPE,
    "[df]s.code.write*": _TYPE,
    "cs.write": _TYPE,
    "cs.execute-only.read": _TYPE,
    "null.*": "reads and writes through a null selector",
    "stack.*": _LIMIT,
    "gate*.conforming.cs": "a gate to conforming code gives CS the descriptor's DPL as RPL",
    "gate.stack.not-present": _SS_NP,
    "gate.stack.no-room": _LIMIT,
    "gate.stack.too-high": _LIMIT,
    "gate.order.*": _LIMIT,
    "limit.call*": "#GP(selector), not #GP(0), beyond the target's limit",
    "near.*.beyond*": "checks a near branch's target only at the fetch",
    "v86.call.odd": _LIMIT,
    "gate.task-gate-ldt": "#TS for a task gate's selector in an LDT (SDM 2A INT n: #GP)",
    "int.stack.not-present": _SS_NP,
    "int.stack.no-room": _LIMIT,
    "int.order.*": _LIMIT,
    "ud.gate-not-present": _EXT,
    "ud.null-handler": _EXT,
    "ud.stack-not-present": _SS_NP,
    "ud.handler.flags": _RF,
    "end.*.1": _LIMIT,
    "addr32.beyond": _LIMIT,
    "sgdt.limit": _LIMIT,
    "ldt.limit": _LIMIT,
    "ltr.null": "LTR takes a null selector",
    "vme.*": _VME,
    "redirect.*": _VME,
    "pvi*": _VME,
    "both.*": _VME,
    "4m.reserved": _RSVD,
    "pae.nx-reserved": _RSVD,
    "pae.reserved": _RSVD,
    "pae.pdpte-reserved.*": "loads CR3 whatever the PDPTEs are",
    "task.after.ss-absent": _SS_NP,
    "task.after.*.eip": "a fault of a new task's register leaves EIP of the old task",
    "task.v86": "#UD for F1, which raises #DB",
    "wrap.ss??": _LIMIT,
    "movs?.*": _LIMIT,
    "stos?.*": _LIMIT,
    "lods?.*": _LIMIT,
    "cmps?.*": _LIMIT,
    "scas?.*": _LIMIT,
    "prefix.ss": _LIMIT,
    "ins": _LIMIT,
    "ins.*": _LIMIT,
    "outs": _LIMIT,
    "outs.*": _LIMIT,
    "read-only": _TYPE,
    "read-only.ecx": _TYPE,
    "icebp": "#UD for F1, which raises #DB",
}

ENDED = {
    "enabling": "shuts down where a write of CR0 or CR4 should fault",
    "limits": "runs beyond the limits of code segments",
    "stepping": "crashes at a breakpoint in a code segment with a base",
}
"""Programs that QEMU does not get through."""


def known_narrow_fault(check: str) -> str | None:
    """Return QEMU's defect in `check`, or None if it should pass."""
    return next((why for name, why in NARROW_FAULTS.items() if fnmatchcase(check, name)), None)
