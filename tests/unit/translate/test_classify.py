"""Every instruction is innocuous, has a rule, or is refused."""

from collections import Counter

import pytest
from iced_x86 import Code, Code_, FlowControl, Instruction, Mnemonic, OpCodeInfo, RflagsBits
from iced_x86 import OpCodeOperandKind as Kind

from ringlet.core.ops import Op
from ringlet.translate.classify import Innocuous, Refused, Ruled, classify
from ringlet.translate.features import (
    BASE,
    NAMES,
    OFFERED,
    existing,
    feature_name,
    missing,
)
from ringlet.translate.rules import RULES
from ringlet.translate.rules.registry import CODE_NAMES, Registry, RegistryError, union

CODES_64 = [code for code in CODE_NAMES if OpCodeInfo(Code_(code)).mode64]
MNEMONIC_NAMES = {value: name for name, value in vars(Mnemonic).items() if isinstance(value, int)}


def mnemonic(code: int) -> str:
    return MNEMONIC_NAMES[OpCodeInfo(Code_(code)).mnemonic]


def instruction(code: int) -> Instruction:
    result = Instruction()
    result.code = Code_(code)
    return result


def innocuous(mode: int = 64) -> list[int]:
    return [code for code in CODE_NAMES if isinstance(classify(code, mode), Innocuous)]


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_every_code_is_in_exactly_one_class(mode: int) -> None:
    codes = [c for c in CODE_NAMES if OpCodeInfo(Code_(c)).is_available_in_mode(mode)]

    classes = Counter(type(classify(code, mode)).__name__ for code in codes)

    print(f"{mode}-bit code: {dict(classes)}")
    assert sum(classes.values()) == len(codes) > 4000
    assert set(classes) == {"Innocuous", "Ruled", "Refused"}


def test_codes_of_other_modes_are_refused() -> None:
    assert isinstance(classify(Code.PUSHAD, 64), Refused)
    assert isinstance(classify(Code.PUSH_R64, 32), Refused)
    assert isinstance(classify(Code.INVALID), Refused)
    assert isinstance(classify(Code.DECLAREBYTE), Refused)


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_no_privileged_instruction_is_innocuous(mode: int) -> None:
    privileged = [
        CODE_NAMES[code]
        for code in innocuous(mode)
        if OpCodeInfo(Code_(code)).is_privileged
        or instruction(code).is_privileged
        or OpCodeInfo(Code_(code)).must_be_cpl0
        or OpCodeInfo(Code_(code)).may_require_cpl0
    ]

    assert privileged == []


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_innocuous_instructions_name_only_general_and_vector_registers(mode: int) -> None:
    system = {
        Kind.CR_REG, Kind.DR_REG, Kind.TR_REG, Kind.SEG_REG, Kind.BND_REG, Kind.TMM_REG,
        Kind.K_REG, Kind.K_VVVV, Kind.K_RM, Kind.ES, Kind.CS, Kind.SS, Kind.DS, Kind.FS, Kind.GS,
        Kind.MEM_OFFS, Kind.FARBR2_2, Kind.FARBR4_2,
    }  # fmt: skip

    naming_more = [
        CODE_NAMES[c] for c in innocuous(mode) if system & set(OpCodeInfo(Code_(c)).op_kinds())
    ]

    assert naming_more == []


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_innocuous_instructions_leave_virtual_flags_alone(mode: int) -> None:
    virtual = RflagsBits.IF | RflagsBits.AC | RflagsBits.UIF

    touching = [
        CODE_NAMES[code]
        for code in innocuous(mode)
        if (instruction(code).rflags_read | instruction(code).rflags_modified) & virtual
    ]

    assert touching == []


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_innocuous_instructions_do_not_interrupt(mode: int) -> None:
    abrupt = {FlowControl.INTERRUPT, FlowControl.EXCEPTION, FlowControl.XBEGIN_XABORT_XEND}

    interrupting = [CODE_NAMES[c] for c in innocuous(mode) if instruction(c).flow_control in abrupt]

    assert interrupting == []


def test_innocuous_instructions_have_offered_features_only() -> None:
    lacking = [
        CODE_NAMES[code]
        for code in innocuous()
        if missing(instruction(code).cpuid_features(), OFFERED)
    ]

    assert lacking == []


@pytest.mark.parametrize("mode", [16, 32, 64])
def test_instructions_that_depend_on_io_or_state_images_are_ruled_or_refused(mode: int) -> None:
    depending = {
        mnemonic(code)
        for code in innocuous(mode)
        if OpCodeInfo(Code_(code)).is_input_output or instruction(code).is_save_restore_instruction
    }

    assert depending == set()


# Instructions that access the processor's identity or state, though most are unprivileged.
@pytest.mark.parametrize(
    ("code", "op"),
    [
        (Code.XGETBV, Op.OP_XGETBV),
        (Code.XSAVE_MEM, Op.OP_XSAVE),
        (Code.XSAVE64_MEM, Op.OP_XSAVE),
        (Code.XRSTOR_MEM, Op.OP_XRSTOR),
        (Code.XSAVEC64_MEM, Op.OP_XSAVEC),
        (Code.XSAVES64_MEM, Op.OP_XSAVES),
        (Code.XRSTORS64_MEM, Op.OP_XRSTORS),
        (Code.FXSAVE64_M512BYTE, Op.OP_FXSAVE),
        (Code.FNSTENV_M28BYTE, Op.OP_FNSTENV),
        (Code.RDPID_R64, Op.OP_RDPID),
        (Code.RDTSC, Op.OP_RDTSC),
        (Code.CPUID, Op.OP_CPUID),
        (Code.SYSCALL, Op.OP_SYSCALL),
        (Code.RDFSBASE_R64, Op.OP_RDFSBASE),
        (Code.UD2, Op.OP_UD),
        (Code.UD0_R32_RM32, Op.OP_UD),
        (Code.MOV_RAX_MOFFS64, Op.OP_EMULATE),
        (Code.WBNOINVD, Op.OP_WBINVD),
        (Code.RDSSPQ_R64, Op.OP_NONE),
        (Code.BNDMOV_BND_BNDM128, Op.OP_NONE),
        (Code.RESERVEDNOP_RM32_R32_0F1A, Op.OP_NONE),
        (Code.CLDEMOTE_M8, Op.OP_NONE),
    ],
)
def test_unprivileged_but_sensitive(code: int, op: Op) -> None:
    result = classify(code)

    assert isinstance(result, Ruled)
    assert result.rule.op == op


@pytest.mark.parametrize(
    "code",
    [
        Code.XBEGIN_REL32,
        Code.XTEST,
        Code.XABORT_IMM8,
        Code.XEND,
        Code.UMWAIT_R32,
        Code.TPAUSE_R64,
        Code.UMONITOR_R64,
        Code.RDPKRU,
        Code.WRPKRU,
        Code.MONITORQ,
        Code.MWAIT,
        Code.VMCALL,
        Code.VMMCALL,
        Code.VMRUNQ,
        Code.ENCLU,
        Code.RSM,
        Code.INVPCID_R64_M128,
        Code.CLAC,
        Code.STAC,
        Code.RDPRU,
        Code.CLZEROQ,
        Code.PCONFIG,
        Code.GETSECQ,
        Code.INCSSPQ_R64,
        Code.WRSSQ_M64_R64,
        Code.CLUI,
        Code.PTWRITE_RM64,
        Code.FEMMS,
        Code.D3NOW_PFADD_MM_MMM64,
        Code.EXTRQ_XMM_XMM,
        Code.XOP_BEXTR_R64_RM64_IMM32,
        Code.VEX_VFMADDPS_XMM_XMM_XMM_XMMM128,
        Code.EVEX_VADDPS_ZMM_K1Z_ZMM_ZMMM512B32_ER,
        Code.VEX_KANDQ_KR_KR_KR,
        Code.VEX_TILEZERO_TMM,
        Code.MOVDIR64B_R64_M512,
        Code.ENQCMD_R64_M512,
        Code.XSTORE_64,
        Code.LKGS_RM16,
        Code.ERETU,
    ],
)
def test_instructions_that_are_not_offered(code: int) -> None:
    assert isinstance(classify(code), Refused)


@pytest.mark.parametrize(
    "code",
    [
        Code.ENDBR64,
        Code.ENDBR32,
        Code.NOP_RM64,
        Code.PAUSE,
        Code.PREFETCHW_M8,
        Code.PREFETCHNTA_M8,
        Code.CLFLUSHOPT_M8,
        Code.LFENCE,
        Code.RDRAND_R64,
        Code.RDSEED_R64,
        Code.LAHF,
        Code.SAHF,
        Code.CMPXCHG16B_M128,
        Code.VEX_VAESENC_YMM_YMM_YMMM256,
        Code.SHA256RNDS2_XMM_XMMM128,
        Code.LDMXCSR_M32,
        Code.CLD,
        Code.STD,
        Code.FNINIT,
        Code.EMMS,
    ],
)
def test_instructions_that_run_as_they_are(code: int) -> None:
    assert classify(code) == Innocuous()


def test_an_instruction_is_refused_without_its_feature() -> None:
    without = OFFERED - {"avx2", "rdpid"}

    assert isinstance(classify(Code.VEX_VPADDB_YMM_YMM_YMMM256), Innocuous)
    refused = classify(Code.VEX_VPADDB_YMM_YMM_YMMM256, 64, without)
    assert refused == Refused("the processor lacks AVX2")
    assert isinstance(classify(Code.RDPID_R64, 64, without), Refused)
    assert isinstance(classify(Code.VEX_VADDPS_YMM_YMM_YMMM256, 64, without), Innocuous)


def test_an_instruction_of_two_features_needs_both() -> None:
    assert isinstance(classify(Code.VEX_VAESENC_XMM_XMM_XMMM128), Innocuous)
    assert isinstance(classify(Code.VEX_VAESENC_XMM_XMM_XMMM128, 64, OFFERED - {"avx"}), Refused)
    assert isinstance(classify(Code.VEX_VAESENC_XMM_XMM_XMMM128, 64, OFFERED - {"aes"}), Refused)


def test_an_encoding_that_is_a_nop_without_its_feature_needs_none() -> None:
    assert isinstance(classify(Code.RDSSPQ_R64, 64, frozenset({BASE})), Ruled)
    assert isinstance(classify(Code.ENDBR64, 64, frozenset({BASE})), Innocuous)


@pytest.mark.parametrize(("name", "code"), [
    ("gfni", Code.GF2P8MULB_XMM_XMMM128), ("movdiri", Code.MOVDIRI_M64_R64),
    ("avx_vnni", Code.VEX_VPDPBUSD_YMM_YMM_YMMM256), ("movbe", Code.MOVBE_R64_M64),
])  # fmt: skip
def test_an_instruction_exists_if_and_only_if_cpuid_shows_its_feature(
    name: str, code: int
) -> None:
    assert isinstance(classify(code, 64, existing(OFFERED)), Innocuous)
    assert isinstance(classify(code, 64, existing(OFFERED - {name})), Refused)


@pytest.mark.parametrize("code", [Code.TZCNT_R64_RM64, Code.LZCNT_R64_RM64])
def test_an_encoding_with_an_older_meaning_is_never_refused(code: int) -> None:
    assert isinstance(classify(code, 64, existing(frozenset())), Innocuous)


def test_operations_look_at_cpuid_themselves() -> None:
    assert {"xsaves", "rdpid", "serialize", "syscall", BASE} <= existing(frozenset())


def test_features_that_would_need_an_operation_have_no_name() -> None:
    system = {"AVX512F", "AMX_TILE", "MPX", "RTM", "VMX", "SVM", "SGX1", "PKU", "MONITOR",
              "WAITPKG", "UINTR", "KL", "CET_SS", "SMAP", "INVPCID", "MOVDIR64B", "ENQCMD",
              "PTWRITE", "SSE4A", "XOP", "FMA4", "TBM", "LWP", "D3NOW", "CLZERO"}  # fmt: skip

    named = system & {feature_name(feature) for feature in NAMES}

    assert named == set()


def test_offered_is_more_than_x86_64_v3() -> None:
    v3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", "popcnt", "cx16",
          "sse4_1", "sse4_2", "ssse3", "pni"}  # fmt: skip

    assert v3 <= OFFERED


def test_the_sensitive_unprivileged_instructions_are_marked() -> None:
    marked = {mnemonic(code) for rule in RULES.rules() if rule.robin_irvine for code in rule.codes}

    assert marked == {
        "SGDT", "SIDT", "SLDT", "SMSW", "STR", "PUSHF", "PUSHFD", "PUSHFQ", "POPF", "POPFD",
        "POPFQ", "LAR", "LSL", "VERR", "VERW", "PUSH", "POP", "MOV", "CALL", "JMP", "RETF", "INT",
    }  # fmt: skip


def test_every_rule_is_used_with_the_offered_features() -> None:
    used = [code for code in CODES_64 if isinstance(classify(code), Ruled)]

    assert used == [code for code in CODES_64 if code in RULES]


@pytest.mark.parametrize("rule", RULES.rules(), ids=lambda rule: rule.name)
def test_each_rule_says_why_what_it_faults_and_where_it_stands(rule: object) -> None:
    reason = getattr(rule, "reason", "")

    assert "Faults:" in reason
    assert "Leaves" in reason or "inlined" in reason.lower() or "Does nothing" in reason
    assert "vol. " in getattr(rule, "manual", "")


def test_every_operation_has_a_rule_or_is_the_translators_own() -> None:
    asked_for = {rule.op for rule in RULES.rules()}

    assert set(Op) - asked_for == {
        Op.OP_NM, Op.OP_DEVICE_READ, Op.OP_DEVICE_WRITE, Op.OP_COUNT
    }  # fmt: skip


def test_registering_an_instruction_twice_is_an_error() -> None:
    registry = Registry()

    @registry.rule(Code.HLT, manual="vol. 2A HLT")
    def first() -> Op:
        """A reason."""
        return Op.OP_HLT

    with pytest.raises(RegistryError, match="HLT is registered twice, by first and second"):

        @registry.rule(Code.NOPD, Code.HLT, manual="vol. 2A HLT")
        def second() -> Op:
            """Another reason."""
            return Op.OP_HLT

    assert list(registry) == [Code.HLT]


def test_a_code_twice_in_one_rule_is_an_error() -> None:
    with pytest.raises(RegistryError, match="HLT is registered twice"):

        @Registry().rule(Code.HLT, Code.HLT, manual="vol. 2A HLT")
        def rule() -> Op:
            """A reason."""
            return Op.OP_HLT


def test_a_rule_without_a_reason_is_an_error() -> None:
    with pytest.raises(RegistryError, match="lacks a reason"):

        @Registry().rule(Code.HLT, manual="vol. 2A HLT")
        def rule() -> Op:
            return Op.OP_HLT


def test_a_union_of_registries_with_one_code_in_two_is_an_error() -> None:
    one, two = Registry(), Registry()
    one.add(RULES[Code.HLT])
    two.add(RULES[Code.HLT])

    with pytest.raises(RegistryError, match="HLT"):
        union(one, two)
