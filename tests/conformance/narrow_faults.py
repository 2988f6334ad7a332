"""Checks of 16- and 32-bit code that QEMU 7.2's TCG is known to fail, each with its defect.

They hold on a real processor by the manual (Intel SDM); Ringlet must pass them.  A name may be a
shell pattern.
"""

from fnmatch import fnmatchcase

_LIMIT = "checks no segment limits in 16- and 32-bit code"
_TYPE = "writes read-only segments and code"
_RF = "never sets RF in saved flags"

NARROW_FAULTS: dict[str, str] = {
    "hello.ud.rf.cpl?": _RF,
    "bound.16.limit": _LIMIT,
    "arpl.read-only": _TYPE,
    "pusha.16.odd-sp*": _LIMIT,
    "[dfs]s.*.beyond": _LIMIT,
    "[dfs]s.*.before": _LIMIT,
    "[df]s.read-only.write*": _TYPE,
    "[df]s.down16-read-only.write*": _TYPE,
    "[df]s.code.write*": _TYPE,
    "cs.write": _TYPE,
    "cs.execute-only.read": _TYPE,
    "null.*": "reads and writes through a null selector",
    "stack.*": _LIMIT,
}


def known_narrow_fault(check: str) -> str | None:
    """Return QEMU's defect in `check`, or None if it should pass."""
    return next((why for name, why in NARROW_FAULTS.items() if fnmatchcase(check, name)), None)
