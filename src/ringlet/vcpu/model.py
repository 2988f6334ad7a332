"""The default processor model on this host: its CPUID table and the frequency of its TSC."""

import struct
import time
from functools import cache

from ringlet.arch import cpuid
from ringlet.arch.vendors import CONDUCT, Conduct, Vendor, vendor_of
from ringlet.vcpu.system.cpuid import host_cpuid, host_tsc

_MEASURE_NS = 20_000_000
_HYPERVISOR = 1 << 31


@cache
def tsc_khz() -> int:
    """Return the frequency of the host's TSC in kHz.

    The host's CPUID may give it exactly (leaf 15h, or a hypervisor's leaf 40000010h).  Otherwise it
    is measured against CLOCK_MONOTONIC_RAW for 20 ms, with an error of about 5 ppm.
    """
    if host_cpuid(0)[0] >= 0x15:
        denominator, numerator, crystal, _ = host_cpuid(0x15)
        if denominator and numerator and crystal:
            return crystal * numerator // denominator // 1000
    if host_cpuid(1)[2] & _HYPERVISOR and host_cpuid(cpuid.HYPERVISOR_LEAF)[0] >= cpuid.TIMING_LEAF:
        khz = host_cpuid(cpuid.TIMING_LEAF)[0]
        if khz:
            return khz
    return _measure()


def _sample() -> tuple[int, int]:
    """Return nanoseconds and the TSC at one moment: the pair, of several, that was read fastest."""
    best: tuple[int, int, int] | None = None
    for _ in range(16):
        before = host_tsc()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        after = host_tsc()
        if best is None or after - before < best[0]:
            best = (after - before, now, (before + after) // 2)
    assert best is not None
    return best[1], best[2]


def _measure() -> int:
    started, first = _sample()
    time.sleep(_MEASURE_NS / 1e9)
    ended, last = _sample()
    return round((last - first) * 1_000_000 / (ended - started))


@cache
def host_vendor() -> Vendor:
    """Return the vendor whose processors behave like the host's."""
    _, ebx, ecx, edx = host_cpuid(0)
    return vendor_of(struct.pack("<3I", ebx, edx, ecx).decode("latin-1"))


def conduct_of(vendor: Vendor | None = None) -> Conduct:
    """Return the behaviour specific to a vendor's processors, by default the host's."""
    return CONDUCT[vendor or host_vendor()]


def default_entries(hide: frozenset[str] = frozenset()) -> list[cpuid.Entry]:
    """Return the CPUID table of the default model on this host, without the features in `hide`."""
    return cpuid.entries(cpuid.DEFAULT, host_cpuid, tsc_khz(), hide)
