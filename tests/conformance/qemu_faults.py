"""Checks that QEMU 7.2's TCG is known to fail, each with what it does wrong.

They hold on a real processor by the manual (Intel SDM); every other engine must pass them.
"""

QEMU_FAULTS: dict[str, str] = {}
