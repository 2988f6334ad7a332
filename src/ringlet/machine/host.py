"""Checks of the host: the features that Ringlet needs, and those that are good to know.

The environment variable RINGLET_HIDE_CPU lists processor features, as /proc/cpuinfo spells them
("bmi2,avx2"), that Ringlet treats as absent.  Tests use it to imitate hosts without them.  A
feature that Ringlet never looks for is refused, because it is most likely misspelt.
"""

import ctypes
import errno
import mmap
import os
import platform
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.direct.linux import linux_version
from ringlet.errors import ConfigError, HostError

HIDE_VARIABLE: Final = "RINGLET_HIDE_CPU"
CHECKED: Final = frozenset({"avx", "avx2", "bmi2", "fsgsbase", "svm", "vmx"})
"""The processor features that Ringlet looks for."""
LEAST_KERNEL: Final = (5, 11)
_AT_HWCAP2: Final = 26
_HWCAP2_FSGSBASE: Final = 1 << 1
_MAP_32BIT: Final = 0x40
_MAP_NORESERVE: Final = 0x4000
_BLOCK: Final = 4 << 20
_LEAST_ADDRESS_SPACE: Final = 1 << 42
_LEAST_FILE: Final = 128 << 20  # RAM of a bare guest
_LEAST_MAPPINGS: Final = 65_530
_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_PR_GET_SECCOMP: Final = 21


class Verdict(Enum):
    """The result of a check."""

    OK = "ok"
    MISSING = "missing"  # no guest can run without it
    INFO = "info"  # guests run either way


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.  `remedy` says what to do if the feature is missing."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def cpu_flags(environ: Mapping[str, str] = os.environ, cpuinfo: Path | None = None) -> set[str]:
    """Return the processor's features by the kernel's names, without those that a test hides.

    Raises ConfigError if one of these is not in CHECKED.
    """
    hidden = set(environ.get(HIDE_VARIABLE, "").replace(",", " ").split())
    if unknown := sorted(hidden - CHECKED):
        raise ConfigError(
            f"{HIDE_VARIABLE}: Ringlet does not look for {unknown[0]!r}; "
            f"give some of {', '.join(sorted(CHECKED))}"
        )
    flags: set[str] = set()
    with (cpuinfo or Path("/proc/cpuinfo")).open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                flags = set(value.split())
                break
    return flags - hidden


def memory_size() -> int:
    """Return the host's RAM in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def examine() -> list[Finding]:
    """Run all checks and return their findings."""
    # Imported late: it brings devices' modules, and every run requires this one.
    from ringlet.machine.programs import examine_programs

    checks = (*_REQUIRED, *_INFORMATION)
    return [*(check() for check in checks), *examine_programs()]


def require() -> None:
    """Raise HostError, which names the first missing feature, if no guest can run on this host."""
    for check in _REQUIRED:
        finding = check()
        if finding.verdict is Verdict.MISSING:
            raise HostError(f"this host lacks {finding.name}: {finding.text}; {finding.remedy}")


# --- required features


def _architecture() -> Finding:
    name = "x86-64 Linux"
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return Finding(name, Verdict.OK, f"{platform.system()} on {platform.machine()}")
    text = f"this is {platform.system()} on {platform.machine()}"
    return Finding(name, Verdict.MISSING, text, "run Ringlet on x86-64 Linux")


def _bmi2() -> Finding:
    if "bmi2" in cpu_flags():
        return Finding("BMI2", Verdict.OK, "translated code uses its instructions")
    return Finding(
        "BMI2",
        Verdict.MISSING,
        "the processor has no RORX, SHRX and PEXT, which translated code uses",
        "use a processor from 2013 (Intel Haswell) or 2015 (AMD Excavator) or later",
    )


def _fsgsbase() -> Finding:
    if "fsgsbase" not in cpu_flags():
        return Finding(
            "FSGSBASE",
            Verdict.MISSING,
            "the processor cannot write FS and GS bases in user mode",
            "use a processor from 2012 (Intel Ivy Bridge) or later",
        )
    if not _libc().getauxval(_AT_HWCAP2) & _HWCAP2_FSGSBASE:
        return Finding(
            "FSGSBASE",
            Verdict.MISSING,
            "the processor has FSGSBASE, but the kernel has not enabled it",
            "boot Linux 5.9 or later without the option nofsgsbase",
        )
    return Finding("FSGSBASE", Verdict.OK, "the kernel has enabled FSGSBASE")


def _kernel() -> Finding:
    release = os.uname().release
    least = ".".join(map(str, LEAST_KERNEL))
    if linux_version() >= LEAST_KERNEL:
        return Finding("Linux " + least, Verdict.OK, f"this is {release}")
    return Finding(
        "Linux " + least,
        Verdict.MISSING,
        f"this is {release}, without syscall user dispatch",
        f"boot Linux {least} or later",
    )


def _memfd() -> Finding:
    try:
        fd = os.memfd_create("ringlet-doctor", os.MFD_CLOEXEC)
    except OSError as error:
        return Finding(
            "memfd",
            Verdict.MISSING,
            f"memfd_create fails: {error.strerror}",
            "allow the memfd_create system call (a container's seccomp profile may forbid it)",
        )
    os.close(fd)
    return Finding("memfd", Verdict.OK, "guest RAM can be mapped at several addresses")


def _low_reservation() -> Finding:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT | _MAP_NORESERVE
    try:
        block = mmap.mmap(-1, _BLOCK, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        return Finding(
            "MAP_32BIT",
            Verdict.MISSING,
            f"cannot reserve {format_size(_BLOCK)} below 2 GiB: {error.strerror}",
            "raise the limit on address space (ulimit -v)",
        )
    block.close()
    return Finding("MAP_32BIT", Verdict.OK, f"{format_size(_BLOCK)} below 2 GiB can be reserved")


def _address_space() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_ADDRESS_SPACE:
        text = "unlimited" if soft == resource.RLIM_INFINITY else format_size(soft)
        return Finding("address space", Verdict.OK, text)
    return Finding(
        "address space",
        Verdict.MISSING,
        f"the limit is {format_size(soft)}, but windows reserve 104 GiB each",
        "raise the limit (ulimit -v unlimited)",
    )


def _file_size() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == resource.RLIM_INFINITY:
        return Finding("large files", Verdict.OK, "unlimited")
    if soft >= _LEAST_FILE:
        return Finding("large files", Verdict.OK, f"guest RAM may have {format_size(soft)} at most")
    return Finding(
        "large files",
        Verdict.MISSING,
        f"the limit is {format_size(soft)}, but guest RAM and translated code are files in memory",
        "raise the limit (ulimit -f unlimited)",
    )


def _max_map_count() -> Finding:
    count = _read_number("/proc/sys/vm/max_map_count")
    if count is None or count >= _LEAST_MAPPINGS:
        return Finding("mappings", Verdict.OK, f"vm.max_map_count is {count or 'unknown'}")
    return Finding(
        "mappings",
        Verdict.MISSING,
        f"vm.max_map_count is {count}, too low: each shadow page may need a mapping",
        f"as root: sysctl vm.max_map_count={_LEAST_MAPPINGS}",
    )


# --- optional features


def _avx2() -> Finding:
    has = "avx2" in cpu_flags()
    text = "guests may use AVX2" if has else "absent: guests see a processor without AVX2"
    return Finding("AVX2", Verdict.OK if has else Verdict.INFO, text)


def _mmap_min_addr() -> Finding:
    least = _read_number("/proc/sys/vm/mmap_min_addr")
    return Finding(
        "low addresses", Verdict.INFO, f"vm.mmap_min_addr is {least}; guests do not depend on it"
    )


def _seccomp() -> Finding:
    mode = _libc().prctl(_PR_GET_SECCOMP, 0, 0, 0, 0)
    if mode < 0:
        return Finding("seccomp", Verdict.INFO, "the kernel lacks it: all code is translated")
    under = " (this process already runs under a filter)" if mode else ""
    return Finding("seccomp", Verdict.OK, f"filters direct processes' system calls{under}")


def _landlock() -> Finding:
    version = _libc().syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET),
        None,
        ctypes.c_size_t(0),
        ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    if version > 0:
        return Finding("Landlock", Verdict.OK, f"ABI version {version}; not used yet")
    why = "disabled at boot" if ctypes.get_errno() == errno.EOPNOTSUPP else "not in the kernel"
    return Finding("Landlock", Verdict.INFO, f"{why}: access to files cannot be restricted")


def _direct() -> Finding:
    from ringlet.direct.process import cpuid_faults
    from ringlet.direct.support import obstacle

    name = "direct execution"
    hindrance = obstacle()
    if hindrance:
        return Finding(
            name,
            Verdict.INFO,
            f"absent, all guest code is translated: {hindrance}",
            "allow seccomp filters with user notification, and syscall user dispatch",
        )
    if cpuid_faults():
        return Finding(name, Verdict.OK, "guests' user code can run directly, and CPUID traps")
    return Finding(
        name, Verdict.OK, "guests' user code can run directly; CPUID does not trap, and is screened"
    )


def _kvm() -> Finding:
    here = Path("/dev/kvm").exists()
    return Finding(
        "/dev/kvm", Verdict.INFO, "present" if here else "absent", "Ringlet never uses it"
    )


_REQUIRED: Final = (
    _architecture, _bmi2, _fsgsbase, _kernel, _memfd, _low_reservation, _address_space, _file_size,
    _max_map_count,
)  # fmt: skip
_INFORMATION: Final = (_avx2, _mmap_min_addr, _seccomp, _landlock, _direct, _kvm)


def _read_number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getauxval.restype = ctypes.c_ulong
    libc.getauxval.argtypes = [ctypes.c_ulong]
    libc.syscall.restype = ctypes.c_long
    return libc
