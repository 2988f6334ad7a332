"""CPUID features of the offered processor, and which of them an instruction needs.

iced-x86 knows the features to which an instruction belongs (`CpuidFeature`).  `NAMES` gives each
feature that Ringlet supports its name in the CPUID table, which is Linux's in /proc/cpuinfo.  A
feature without a name is never offered, so its instructions raise #UD on every host.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from iced_x86 import CpuidFeature as F

from ringlet.arch.cpuid import FEATURES

BASE = "base"
"""What every x86-64 processor has, whether or not CPUID has a bit for it."""

NAMES: Mapping[int, str] = MappingProxyType(
    {
        F.INTEL8086: BASE,
        F.INTEL186: BASE,
        F.INTEL286: BASE,
        F.INTEL386: BASE,
        F.INTEL486: BASE,
        F.CPUID: BASE,
        F.PAUSE: BASE,
        F.MULTIBYTENOP: BASE,
        # RDPMC is older than the CPUID leaf for its counters; without counters it raises #GP.
        F.RDPMC: BASE,
        # ENDBR64 and ENDBR32 are NOPs without CET (SDM vol. 1 ch. 17), and also with CET in a
        # process that has not enabled it.
        F.CET_IBT: BASE,
        F.X64: "lm",
        F.FPU: "fpu",
        F.FPU287: "fpu",
        F.FPU387: "fpu",
        F.TSC: "tsc",
        F.MSR: "msr",
        F.CX8: "cx8",
        F.SEP: "sep",
        F.CMOV: "cmov",
        F.CLFSH: "clflush",
        F.MMX: "mmx",
        F.FXSR: "fxsr",
        F.SSE: "sse",
        F.SSE2: "sse2",
        F.SSE3: "pni",
        F.SSSE3: "ssse3",
        F.SSE4_1: "sse4_1",
        F.SSE4_2: "sse4_2",
        F.PCLMULQDQ: "pclmulqdq",
        F.FMA: "fma",
        F.CMPXCHG16B: "cx16",
        F.MOVBE: "movbe",
        F.POPCNT: "popcnt",
        F.AES: "aes",
        F.XSAVE: "xsave",
        F.AVX: "avx",
        F.F16C: "f16c",
        F.RDRAND: "rdrand",
        F.SYSCALL: "syscall",
        F.RDTSCP: "rdtscp",
        F.LZCNT: "abm",
        F.PREFETCHW: "3dnowprefetch",
        # PREFETCHWT1 is another hint of PREFETCHW's opcode; without the feature it is PREFETCHW or
        # a NOP.
        F.PREFETCHWT1: "3dnowprefetch",
        F.FSGSBASE: "fsgsbase",
        F.BMI1: "bmi1",
        F.AVX2: "avx2",
        F.BMI2: "bmi2",
        F.RDSEED: "rdseed",
        F.ADX: "adx",
        F.CLFLUSHOPT: "clflushopt",
        F.CLWB: "clwb",
        F.SHA: "sha_ni",
        F.XSAVEOPT: "xsaveopt",
        F.XSAVEC: "xsavec",
        F.XSAVES: "xsaves",
        F.VAES: "vaes",
        F.VPCLMULQDQ: "vpclmulqdq",
        F.RDPID: "rdpid",
        F.SERIALIZE: "serialize",
        F.GFNI: "gfni",
        F.AVX_VNNI: "avx_vnni",
        F.MOVDIRI: "movdiri",
    }
)

OFFERED: frozenset[str] = frozenset(NAMES.values())
"""All features that Ringlet supports: the default model's on a host that has all of them."""


def existing(shown: frozenset[str]) -> frozenset[str]:
    """Return the features whose instructions exist on a processor whose CPUID shows `shown`.

    Features whose instructions the virtual processor performs itself are always included: these
    operations check CPUID when they are performed, and raise #UD.
    """
    return frozenset(
        name for name in OFFERED if name in shown or name == BASE or not FEATURES[name].native
    )


def missing(needed: Iterable[int], features: frozenset[str]) -> list[int]:
    """Return the `CpuidFeature` values in `needed` that a processor with `features` lacks."""
    return [feature for feature in needed if NAMES.get(feature) not in features]


def feature_name(feature: int) -> str:
    """Return iced-x86's name of a `CpuidFeature` value, for messages."""
    return _ICED_NAMES.get(feature, f"feature {feature}")


_ICED_NAMES: Mapping[int, str] = MappingProxyType(
    {value: name for name, value in vars(F).items() if isinstance(value, int)}
)
