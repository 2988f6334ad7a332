"""The table of instruction forms: all that iced-x86 knows for a mode, except those that cannot be
equal on two machines, each with its reason."""
from __future__ import annotations

import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import cast

from iced_x86 import (
    Code,
    Code_,
    CpuidFeature,
    EncodingKind,
    FlowControl,
    Instruction,
    Mnemonic,
    OpCodeInfo,
    OpCodeOperandKind,
    OpCodeOperandKind_,
)

from ringlet.translate import features

K = OpCodeOperandKind


def _names(enum: object) -> dict[int, str]:
    return {v: k for k, v in vars(enum).items() if isinstance(v, int)}


CODE_NAMES = _names(Code)
FEATURE_NAMES = _names(CpuidFeature)
MNEMONIC_NAMES = _names(Mnemonic)
_KIND_NAMES = _names(K)



@functools.cache
def offered() -> frozenset[str]:
    """Features that the virtual processor offers and this host has, by Linux's names."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
                 if line.startswith("flags"))
    return features.OFFERED & frozenset(flags.split()) | {features.BASE}


class Group(Enum):
    """Forms that the generator sets up alike."""

    PLAIN = "named operands only"
    STRING = "RSI, RDI and perhaps RCX"
    STACK = "moves RSP"
    BRANCH = "changes the flow"
    GATHER = "VSIB memory operand"
    BITS = "bit string: the register operand moves the address"
    X87 = "x87 and MMX"
    VECTOR = "SSE and AVX"
    TRAP = "privileged or always faulting"
    IMAGE = "stores or loads floating-point state"


# Reasons why a form is not compared with the host.
_UNEQUAL: dict[str, str] = {
    "CPUID RDTSC RDTSCP RDPMC RDRAND RDSEED RDPID XGETBV": "its result is the machine's own",
    "SGDT SIDT SLDT STR SMSW": "Linux answers them itself under UMIP",
    "SYSENTER SYSEXIT SYSEXITQ SYSRET SYSRETQ": "AMD and Intel differ in long mode",
    "XBEGIN XABORT XEND XTEST": "transactions abort at random",
    "XSETBV XSAVES XRSTORS XSAVES64 XRSTORS64": "privileged, tested at ring 0",
    "LTR LLDT LGDT LIDT LMSW": "privileged, tested at ring 0",
    "VERR VERW LAR LSL": "looks at descriptors, which differ in their accessed bits",
    "LSS LFS LGS": "loads selectors from memory: needs the host's own table",
    "UD0 UD1": "their ModRM is fetched by some processors only",
    "XSAVEC XSAVEC64 XSAVEOPT XSAVEOPT64": "the optimisations depend on internal tracking",
    "INT": "Linux has gates of its own (80h)",
    "INT1": "hypervisors under the host give it its own address, processors the next one",
}
# And those of other code.
_ALSO_UNEQUAL: dict[str, str] = {
    "SYSCALL": "AMD's alone outside 64-bit mode",
    "LDS LES": "loads selectors from memory: needs the host's own table",
}
_UNEQUAL_BY_MNEMONIC = {name: why for names, why in _UNEQUAL.items() for name in names.split()}
UNEQUAL_NARROW = _UNEQUAL_BY_MNEMONIC | {
    name: why for names, why in _ALSO_UNEQUAL.items() for name in names.split()}

_STRING_KINDS = frozenset((K.SEG_RSI, K.ES_RDI, K.SEG_RDI))
_VSIB = frozenset((K.MEM_VSIB32X, K.MEM_VSIB32Y, K.MEM_VSIB64X, K.MEM_VSIB64Y))
_BRANCHES = frozenset((K.BR16_1, K.BR16_2, K.BR32_1, K.BR32_4, K.BR64_1, K.BR64_4))
_FAR = frozenset((K.FARBR2_2, K.FARBR4_2))
_IMAGE = frozenset("FNSTENV FLDENV FNSAVE FRSTOR FSTENV FSAVE FXSAVE FXSAVE64 FXRSTOR FXRSTOR64 "
                   "XSAVE XSAVE64 XRSTOR XRSTOR64".split())
_TRAPS = frozenset("HLT CLI STI IN OUT INSB INSW INSD OUTSB OUTSW OUTSD SWAPGS CLTS INVD WBINVD "
                   "SYSCALL INVLPG WRMSR RDMSR UD2 INT1 INT3 INTO CLAC STAC".split())


@dataclass(frozen=True, slots=True)
class Form:
    """One iced-x86 `Code`: its name, group, operand kinds and what it needs."""

    code: Code_
    name: str
    mnemonic: str
    group: Group
    kinds: tuple[OpCodeOperandKind_, ...]
    lock: bool
    rep: bool
    repne: bool
    vex: bool


def _group(ins: Instruction, info: OpCodeInfo, mnemonic: str,
           kinds: tuple[OpCodeOperandKind_, ...]) -> Group:
    if mnemonic in _IMAGE:
        return Group.IMAGE
    if ins.is_privileged or mnemonic in _TRAPS:
        return Group.TRAP
    if _VSIB.intersection(kinds):
        return Group.GATHER
    if _STRING_KINDS.intersection(kinds):
        return Group.STRING
    if ins.flow_control != FlowControl.NEXT:
        return Group.BRANCH
    if info.is_stack_instruction or mnemonic in ("LEAVE", "ENTER"):
        return Group.STACK
    if mnemonic in ("BT", "BTS", "BTR", "BTC") and K.IMM8 not in kinds:
        return Group.BITS
    features = {FEATURE_NAMES[f] for f in ins.cpuid_features()}
    if features & {"FPU", "FPU287", "FPU387", "MMX"}:
        return Group.X87
    vector = any("XMM" in n or "YMM" in n or "MM_" in n for n in (_KIND_NAMES[k] for k in kinds))
    return Group.VECTOR if vector else Group.PLAIN


def why_not(code: Code_, bits: int = 64) -> str | None:
    """Return why a code is excluded from the comparison with the host in a mode, or None."""
    info = OpCodeInfo(code)
    ins = Instruction()
    ins.code = code
    mnemonic = MNEMONIC_NAMES[info.mnemonic]
    name = CODE_NAMES[code]
    modes = {16: info.mode16, 32: info.mode32, 64: info.mode64}
    if not info.is_instruction or not modes[bits] \
            or info.encoding not in (EncodingKind.LEGACY, EncodingKind.VEX):
        return "not an instruction of this mode, or in an encoding that is not offered"
    missing = features.missing(ins.cpuid_features(), offered())
    if missing:
        return f"needs {' '.join(map(features.feature_name, missing))}"
    unequal = _UNEQUAL_BY_MNEMONIC if bits == 64 else UNEQUAL_NARROW
    if mnemonic in unequal:
        return unequal[mnemonic]
    kinds = {info.op_kind(i) for i in range(info.op_count)}
    if kinds & {K.CR_REG, K.DR_REG, K.SEG_REG, K.ES, K.CS, K.SS, K.DS, K.FS, K.GS, K.TR_REG}:
        return "system or segment register, tested at ring 0"
    if kinds & _FAR or ins.is_call_far_indirect or ins.is_jmp_far_indirect \
            or name.startswith(("RETF", "IRET")):
        return "far transfer, tested at ring 0"
    if bits == 64 and (kinds & {K.BR16_1, K.BR16_2}
                       or name in ("CALL_RM16", "JMP_RM16", "RETNW", "RETNW_IMM16")):
        return "66h on a near branch: Intel ignores it, AMD truncates RIP"
    if info.fwait:
        return "FWAIT and another instruction in one"
    return "with a register: #UD on AMD, a NOP on Intel" if name.endswith("_0F0D") else None


def all_codes() -> list[Code_]:
    """Every `Code` of iced-x86."""
    return [cast("Code_", number) for number in CODE_NAMES]


@functools.cache
def table(bits: int = 64) -> tuple[Form, ...]:
    """All forms that are compared with the host in 64-bit code, or in code of other `bits`."""
    forms = []
    for code in all_codes():
        if why_not(code, bits) is not None:
            continue
        info = OpCodeInfo(code)
        ins = Instruction()
        ins.code = code
        kinds = tuple(info.op_kind(i) for i in range(info.op_count))
        mnemonic = MNEMONIC_NAMES[info.mnemonic]
        group = _group(ins, info, mnemonic, kinds)
        forms.append(Form(code, CODE_NAMES[code], mnemonic, group, kinds,
                          info.can_use_lock_prefix, info.can_use_rep_prefix,
                          info.can_use_repne_prefix, info.encoding == EncodingKind.VEX))
    return tuple(forms)


@functools.cache
def by_group(bits: int = 64) -> dict[Group, tuple[Form, ...]]:
    """The same, by group."""
    return {g: tuple(f for f in table(bits) if f.group is g) for g in Group}


def kind_names(form: Form) -> tuple[str, ...]:
    """iced-x86's names of a form's operand kinds."""
    return tuple(_KIND_NAMES[k] for k in form.kinds)
