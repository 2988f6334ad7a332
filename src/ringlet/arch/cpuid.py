"""CPUID: the named processor model, and the table a virtual machine shows for it.

A table is a pure function of the model, the host's CPUID, and the TSC's frequency, so that a
machine can be rebuilt from its snapshot.  The registers that depend on the processor's state
(OSXSAVE, the size in leaf 0Dh) are filled in when CPUID executes.

There are two kinds of features.  Features of *innocuous* instructions, which run unchanged on the
host, are offered only if the host has them.  Features of instructions and registers that the
virtual processor performs itself (XSAVE and its variants, RDPID, SERIALIZE, TSC deadline, ...) do
not depend on the host.

The vendor is Intel, also on AMD hosts.  Guests use the TSC's frequency in leaf 15h, the caches in
leaf 4 and the immunities in IA32_ARCH_CAPABILITIES only on Intel's processors; and where the
vendors' system instructions differ, the virtual processor follows Intel's.  No real processor has
family 6, model FEh, so lists of affected processors, errata and model-specific drivers do not
match it.

Hidden, because the virtual processor does not have them: PCID, INVPCID, SMEP, SMAP, UMIP, PKU,
LA57, AVX-512, AMX, MPX, CET, TSX, VMX, MONITOR, the performance counters, thermal and power
management, and AMD's own extensions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

HostCpuid = Callable[[int, int], tuple[int, int, int, int]]
"""The host's CPUID: EAX, EBX, ECX, EDX of a leaf and subleaf."""

EAX, EBX, ECX, EDX = range(4)


class Entry(NamedTuple):
    """One row of the table; `flags` bit 0: the subleaf counts."""

    leaf: int
    subleaf: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class Bit(NamedTuple):
    """Where CPUID shows a feature; `native`: its instructions run on the host."""

    leaf: int
    subleaf: int
    register: int
    bit: int
    native: bool = False


def _bits(
    leaf: int, subleaf: int, register: int, native: Mapping[int, str], own: Mapping[int, str]
) -> dict[str, Bit]:
    rows = {name: Bit(leaf, subleaf, register, bit, True) for bit, name in native.items()}
    rows.update({name: Bit(leaf, subleaf, register, bit) for bit, name in own.items()})
    return rows


FEATURES: Mapping[str, Bit] = MappingProxyType(
    _bits(
        1,
        0,
        EDX,
        {0: "fpu", 8: "cx8", 15: "cmov", 19: "clflush", 23: "mmx", 25: "sse", 26: "sse2"},
        {
            1: "vme",
            2: "de",
            3: "pse",
            4: "tsc",
            5: "msr",
            6: "pae",
            7: "mce",
            9: "apic",
            11: "sep",
            12: "mtrr",
            13: "pge",
            14: "mca",
            16: "pat",
            17: "pse36",
            24: "fxsr",
        },
    )
    | _bits(
        1,
        0,
        ECX,
        {
            0: "pni",
            1: "pclmulqdq",
            9: "ssse3",
            12: "fma",
            13: "cx16",
            19: "sse4_1",
            20: "sse4_2",
            22: "movbe",
            23: "popcnt",
            25: "aes",
            28: "avx",
            29: "f16c",
            30: "rdrand",
        },
        {21: "x2apic", 24: "tsc_deadline_timer", 26: "xsave", 31: "hypervisor"},
    )
    | _bits(
        7,
        0,
        EBX,
        {
            3: "bmi1",
            5: "avx2",
            6: "fdp_excptn_only",
            8: "bmi2",
            9: "erms",
            18: "rdseed",
            19: "adx",
            23: "clflushopt",
            24: "clwb",
            29: "sha_ni",
        },
        {0: "fsgsbase", 1: "tsc_adjust", 13: "zero_fcs_fds"},
    )
    | _bits(7, 0, ECX, {8: "gfni", 9: "vaes", 10: "vpclmulqdq", 27: "movdiri"}, {22: "rdpid"})
    | _bits(
        7,
        0,
        EDX,
        {4: "fsrm"},
        {
            14: "serialize",
            26: "spec_ctrl",
            27: "intel_stibp",
            28: "flush_l1d",
            29: "arch_capabilities",
            31: "ssbd",
        },
    )
    | _bits(7, 1, EAX, {4: "avx_vnni"}, {})
    | _bits(7, 2, EDX, {}, {4: "bhi_ctrl"})
    | _bits(0xD, 1, EAX, {}, {0: "xsaveopt", 1: "xsavec", 2: "xgetbv1", 3: "xsaves"})
    | _bits(
        0x80000001,
        0,
        ECX,
        {0: "lahf_lm", 5: "abm", 8: "3dnowprefetch"},
        {},
    )
    | _bits(
        0x80000001,
        0,
        EDX,
        {},
        {11: "syscall", 20: "nx", 26: "pdpe1gb", 27: "rdtscp", 29: "lm"},
    )
    | _bits(0x80000007, 0, EDX, {}, {8: "constant_tsc"})
    | _bits(6, 0, EAX, {}, {2: "arat"})
)
"""Every feature that can be offered, by its name in Linux's /proc/cpuinfo if it has one."""

X86_64_V3: frozenset[str] = frozenset(
    [
        "fpu",
        "cx8",
        "cmov",
        "mmx",
        "fxsr",
        "sse",
        "sse2",
        "syscall",
        "lm",
        "cx16",
        "lahf_lm",
        "popcnt",
        "pni",
        "sse4_1",
        "sse4_2",
        "ssse3",
        "avx",
        "avx2",
        "bmi1",
        "bmi2",
        "f16c",
        "fma",
        "abm",
        "movbe",
        "xsave",
    ]
)
"""Level 3 of the x86-64 psABI; a host that lacks one of these cannot run programs for level 3."""

# Vector features need the AVX state.
_NEEDS_AVX = frozenset({"avx2", "avx_vnni", "f16c", "fma", "vaes", "vpclmulqdq"})


@dataclass(frozen=True)
class Model:
    """A named processor: the CPUID data that do not depend on the host."""

    name: str
    vendor: str = "GenuineIntel"
    family: int = 6
    model: int = 0xFE
    stepping: int = 1
    brand: str = "Ringlet virtual processor, x86-64-v3"
    physical_bits: int = 46
    linear_bits: int = 48
    features: frozenset[str] = frozenset(FEATURES)


# Programs use RDTSCP without asking.  It reads the host's TSC_AUX where user code runs directly, so
# such code needs translation.  A kernel that does not see it takes LFENCE and RDTSC for its clocks.
DEFAULT = Model("x86-64-v3", features=frozenset(FEATURES) - {"rdtscp"})

# The frequency of the APIC timer, which leaf 15h reports.
CRYSTAL_HZ = 1_000_000
BUS_MHZ = 100
HYPERVISOR_LEAF = 0x40000000
TIMING_LEAF = 0x40000010
SIGNATURE = b"RingletVMM\0\0"
# A second hypervisor interface, that of Linux's KVM.  It offers just enough for guests to
# recognize it (docs/adr/0007; Linux, Documentation/virt/kvm/x86/cpuid.rst).
KVM_LEAF = 0x40000100
KVM_SIGNATURE = b"KVMKVMKVM\0\0\0"
KVM_FEATURES_LEAF = 0x40000101
KVM_NO_IO_DELAY = 1 << 1
KVM_MSI_EXT_DEST_ID = 1 << 15
_MAX_BASIC = 0x16
_MAX_EXTENDED = 0x80000008
_XSAVE_LEGACY = 576
_AVX_SIZE = 256


def _host_has(host: HostCpuid, where: Bit) -> bool:
    top = host(where.leaf & 0x80000000, 0)[EAX]
    if where.leaf > top or (where.leaf == 7 and where.subleaf > host(7, 0)[EAX]):
        return False
    return bool(host(where.leaf, where.subleaf)[where.register] >> where.bit & 1)


def offered(model: Model, host: HostCpuid, hide: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the names of the model's features that this host can run, without those in `hide`."""
    names = {
        name
        for name in model.features - hide
        if not FEATURES[name].native or _host_has(host, FEATURES[name])
    }
    if "avx" not in names or "xsave" not in names:
        names -= _NEEDS_AVX | {"avx"}
    return frozenset(names)


def missing(host: HostCpuid) -> list[str]:
    """Return the features of x86-64-v3 that this host lacks."""
    return sorted(X86_64_V3 - offered(DEFAULT, host))


def features_of(table: Iterable[Entry]) -> frozenset[str]:
    """Return the names of the features that a table shows."""
    rows = {(row.leaf, row.subleaf): row[3:] for row in table}
    return frozenset(
        name
        for name, bit in FEATURES.items()
        if rows.get((bit.leaf, bit.subleaf), (0, 0, 0, 0))[bit.register] >> bit.bit & 1
    )


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[i : i + 4], "little") for i in range(0, len(text), 4)]


def _signature(model: Model) -> int:
    """Return leaf 1's EAX (SDM 2A figure 3-6)."""
    family, extended = (model.family, 0) if model.family < 15 else (15, model.family - 15)
    return (
        model.stepping
        | (model.model & 15) << 4
        | family << 8
        | (model.model >> 4) << 16
        | extended << 20
    )


def _cache(kind: int, level: int, size: int, ways: int) -> tuple[int, int, int, int]:
    """Return a subleaf of leaf 4 for a cache of one thread with 64-byte lines."""
    sets = size // (ways * 64)
    return kind | level << 5 | 1 << 8, (ways - 1) << 22 | 63, sets - 1, 0


def tsc_ratio(tsc_khz: int) -> tuple[int, int]:
    """Return leaf 15h's ratio of TSC to crystal, as denominator and numerator.

    Linux multiplies the crystal's kHz by the numerator in 32 bits, so the product must fit there.
    """
    denominator, numerator = CRYSTAL_HZ // 1000, tsc_khz
    while numerator * (CRYSTAL_HZ // 1000) >= 1 << 32:
        denominator, numerator = denominator // 2, numerator // 2
    return denominator, numerator


def entries(
    model: Model,
    host: HostCpuid,
    tsc_khz: int,
    hide: frozenset[str] = frozenset(),
    apic_id: int = 0,
) -> list[Entry]:
    """Return the table of a virtual processor.

    `tsc_khz` is the guest's TSC frequency; `hide` lists features that the machine around the
    processor does not have, such as "x2apic".
    """
    names = offered(model, host, hide)

    def shown(leaf: int, subleaf: int, register: int) -> int:
        return sum(
            1 << bit.bit
            for name in names
            if (bit := FEATURES[name])[:3] == (leaf, subleaf, register)
        )

    table: list[Entry] = []

    def row(leaf: int, *registers: int) -> None:
        table.append(Entry(leaf, 0, 0, *registers))

    def subleaf(leaf: int, index: int, *registers: int) -> None:
        table.append(Entry(leaf, index, 1, *registers))

    vendor = _words(model.vendor.encode())
    row(0, _MAX_BASIC, vendor[0], vendor[2], vendor[1])
    row(1, _signature(model), 8 << 8 | 1 << 16 | apic_id << 24, shown(1, 0, ECX), shown(1, 0, EDX))
    row(2, 0xFF01, 0, 0, 0)  # descriptor FFh: the caches are in leaf 4
    subleaf(4, 0, *_cache(1, 1, 32 << 10, 8))
    subleaf(4, 1, *_cache(2, 1, 32 << 10, 8))
    subleaf(4, 2, *_cache(3, 2, 1 << 20, 16))
    subleaf(4, 3, *_cache(3, 3, 16 << 20, 16))
    row(6, shown(6, 0, EAX), 0, 0, 0)
    subleaf(7, 0, 2, shown(7, 0, EBX), shown(7, 0, ECX), shown(7, 0, EDX))
    subleaf(7, 1, shown(7, 1, EAX), 0, 0, 0)
    subleaf(7, 2, 0, 0, 0, shown(7, 2, EDX))
    subleaf(0xB, 0, 0, 1, 0x100, apic_id)
    subleaf(0xB, 1, 0, 1, 0x201, apic_id)
    if "xsave" in names:
        avx = "avx" in names
        size = _XSAVE_LEGACY + (_AVX_SIZE if avx else 0)
        subleaf(0xD, 0, 7 if avx else 3, size, size, 0)
        subleaf(0xD, 1, shown(0xD, 1, EAX), size, 0, 0)
        if avx:
            subleaf(0xD, 2, _AVX_SIZE, _XSAVE_LEGACY, 0, 0)
    row(0x15, *tsc_ratio(tsc_khz), CRYSTAL_HZ, 0)
    mhz = round(tsc_khz / 1000)
    row(0x16, mhz, mhz, BUS_MHZ, 0)
    signature = _words(SIGNATURE)
    row(HYPERVISOR_LEAF, TIMING_LEAF, *signature)
    row(TIMING_LEAF, tsc_khz, CRYSTAL_HZ // 1000, 0, 0)
    row(KVM_LEAF, KVM_FEATURES_LEAF, *_words(KVM_SIGNATURE))
    row(KVM_FEATURES_LEAF, KVM_NO_IO_DELAY | KVM_MSI_EXT_DEST_ID, 0, 0, 0)
    row(0x80000000, _MAX_EXTENDED, 0, 0, 0)
    row(0x80000001, 0, 0, shown(0x80000001, 0, ECX), shown(0x80000001, 0, EDX))
    brand = _words(model.brand.encode().ljust(48, b"\0")[:48])
    for i in range(3):
        row(0x80000002 + i, *brand[4 * i : 4 * i + 4])
    row(0x80000006, 0, 0, 1024 << 16 | 8 << 12 | 64, 0)  # L2: 1 MiB, 16 ways, 64-byte lines
    row(0x80000007, 0, 0, 0, shown(0x80000007, 0, EDX))
    row(0x80000008, model.physical_bits | model.linear_bits << 8, 0, 0, 0)
    return table
