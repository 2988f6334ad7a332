"""Screening of pages: lengths against iced-x86, and which bytes are refused where."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from iced_x86 import Code, CpuidFeature, Decoder, DecoderOptions

from ringlet.direct.instructions import length
from ringlet.direct.replacing import replace
from ringlet.direct.screening import clean

PAGE = 4096
OTHERS = {
    CpuidFeature.XOP,
    CpuidFeature.PADLOCK_ACE,
    CpuidFeature.PADLOCK_PHE,
    CpuidFeature.PADLOCK_PMM,
    CpuidFeature.PADLOCK_RNG,
    CpuidFeature.PADLOCK_GMI,
    CpuidFeature.PADLOCK_UNDOC,
    CpuidFeature.CYRIX_SMM,
    CpuidFeature.CYRIX_SMINT,
    CpuidFeature.CYRIX_FPU,
    CpuidFeature.CYRIX_SHR,
    CpuidFeature.CYRIX_DDI,
    CpuidFeature.CYRIX_EMMI,
    CpuidFeature.CYRIX_DMI,
    CpuidFeature.CENTAUR_AIS,
    CpuidFeature.D3NOW,
    CpuidFeature.KNC,
}
NOP = b"\x90"

ANYWHERE = {
    "xgetbv": "0f01d0",
    "vmcall": "0f01c1",
    "vmmcall": "0f01d9",
    "enclu": "0f01d7",
    "rdpkru": "0f01ee",
    "wrpkru": "0f01ef",
    "rdtscp": "0f01f9",
    "rdpru": "0f01fd",
    "xsave": "0fae20",
    "xsave64": "480fae20",
    "xrstor": "0fae28",
    "xsaveopt": "0fae30",
    "xsavec": "0fc720",
    "rdpid": "f30fc7f8",
    "rdpid r8": "f3410fc7f8",
}
IN_SEQUENCE = {
    "sldt": "0f0000",
    "str": "0f00c8",
    "verr": "0f00e0",
    "verw": "0f00e8",
    "sgdt": "0f0100",
    "sidt": "0f0108",
    "smsw": "0f01e0",
    "lar": "0f02c0",
    "lsl": "0f03c0",
    "sysenter": "0f34",
}
INNOCUOUS = {
    "xend": "0f01d5",
    "xtest": "0f01d6",
    "lfence": "0faee8",
    "fxsave": "0fae00",
    "rdseed": "0fc7f8",
    "cmpxchg8b": "0fc708",
    "rdtsc": "0f31",
    "syscall": "0f05",
    "lgdt": "0f0110",
}


def page(code: str, at: int = 100) -> bytes:
    """A page of NOPs with some code at an offset."""
    data = bytes.fromhex(code)
    return NOP * at + data + NOP * (PAGE - at - len(data))


@pytest.mark.parametrize("name", [*ANYWHERE, *IN_SEQUENCE])
@pytest.mark.parametrize("at", [0, 1, 100, 4092])
def test_a_sensitive_instruction_is_refused(name: str, at: int) -> None:
    code = {**ANYWHERE, **IN_SEQUENCE}[name]
    if at + len(code) // 2 > PAGE:
        at = PAGE - len(code) // 2
    assert not clean(page(code, at))


PARTS = {name for name, code in ANYWHERE.items() if code.startswith("0f01")} | {
    "xsave", "xsave64", "xsaveopt", "xsavec", "xrstor",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ANYWHERE.keys() - PARTS))
def test_bytes_inside_another_instruction_are_refused(name: str) -> None:
    # MOVABS RAX, imm64
    assert not clean(page("48b8" + ANYWHERE[name].ljust(16, "0")))


@pytest.mark.parametrize(
    "code",
    [
        "c1e00f" + "01d0",  # SHL EAX, 15; ADD EAX, EDX
        "83e10f" + "01d0",  # AND ECX, 15; ADD EAX, EDX
        "488b0f" + "01d0",  # MOV RCX, [RDI]; ADD EAX, EDX
        "48b8" + "0f01d00000000000",  # MOVABS RAX, imm64
        "e80f01efff",  # CALL
        "e80f01fdff",
        "660fae37",  # CLWB [RDI]
        "66410fae30",  # CLWB [R8]
        "488d3d" + "0fae6a01",  # LEA RDI, [RIP + displacement]
        "b8" + "0fae2000",  # MOV EAX, imm32
    ],
)
@pytest.mark.parametrize("at", [40, 100, 127, 128, 129, 2000, 4080])
def test_bytes_that_are_parts_of_other_instructions_pass(code: str, at: int) -> None:
    assert clean(page(code, at))


@pytest.mark.parametrize(
    "code",
    ["0f01d0", "31c90f01d0", "480f01d0", "660f01d0", "2e480f01d0", "0f01ef", "480f01ef", "0fae30",
     "480fae30"],
)
@pytest.mark.parametrize("before", range(16))
def test_code_that_runs_into_one_of_them_is_seen(code: str, before: int) -> None:
    """Also behind instructions that end with a prefix of CLWB or with 0F."""
    for last in ("", "c1e00f", "b800000066", "b800006641"):
        assert not clean(page(last + "90" * before + code, 200))


def test_xsaveopt_behind_bytes_of_clwbs_prefix_is_refused() -> None:
    # MOV EAX, 66000000h or 41660000h; XSAVEOPT [RDI]
    assert not clean(page("b800000066" + "0fae37"))
    assert not clean(page("b800006641" + "0fae37"))


def test_bytes_between_data_are_not_taken_for_a_part() -> None:
    part = "c1e00f01d0"
    assert clean(page("90" * 200 + part))
    # 06 and 60 are no instructions.  SHL begins soon behind them, or early on the page.
    assert not clean(page("0660" * 20 + "90" * 5 + part, 200))
    assert not clean(page(part, 8))
    # Sixteen bytes are no instruction.
    assert not clean(page("2e" * 200 + "0f01d0"))


@pytest.mark.parametrize("name", IN_SEQUENCE)
def test_common_bytes_inside_another_instruction_pass(name: str) -> None:
    assert clean(page("48b8" + IN_SEQUENCE[name].ljust(16, "0")))


@pytest.mark.parametrize("name", INNOCUOUS)
def test_innocuous_and_trapping_instructions_pass(name: str) -> None:
    assert clean(page(INNOCUOUS[name]))


def test_cpuid_is_refused_only_where_it_does_not_fault() -> None:
    assert clean(page("0fa2"))
    assert not clean(page("0fa2"), cpuid=True)


@pytest.mark.parametrize("before", range(16))
@pytest.mark.parametrize("code", ["0fa2", "480fa2", "31c90fa2", "b8070000000fa2", "c1e00f0fa2"])
def test_code_that_runs_into_cpuid_is_seen(code: str, before: int) -> None:
    assert not clean(page("90" * before + code, 200), cpuid=True)


@pytest.mark.parametrize(
    "code",
    [
        "b80fa20000",  # MOV EAX, imm32
        "e80fa2ffff",  # CALL
        "488d3d0fa20000",  # LEA RDI, [RIP + displacement]
        "0f840fa20000",  # JZ
        "83e00fa208fea2100000",  # AND EAX, 15; MOV [offset], AL
    ],
)
@pytest.mark.parametrize("at", [40, 127, 128, 129, 2000, 4080])
def test_cpuids_bytes_inside_other_instructions_pass(code: str, at: int) -> None:
    assert clean(page(code, at), cpuid=True)


def test_the_last_two_bytes_of_a_page_are_looked_at() -> None:
    assert not clean(page("0fa2", PAGE - 2), cpuid=True)
    assert not clean(page("0f34", PAGE - 2))
    assert clean(page("0f05", PAGE - 2), cpuid=True)


def test_a_branch_whose_length_vendors_differ_in_is_no_instruction() -> None:
    for code in ("660f84", "66e9", "66e8"):
        assert length(bytes.fromhex(code + "00" * 4)) == 1
    assert length(bytes.fromhex("6648e800000000")) == 7
    assert not clean(page("660f840000" + "b80fa20000", 200), cpuid=True)


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize(
    "code",
    ["81fb0fa20000", "48b89033c00fa2909090", "48b89033c90f01d09090", "48b80fc7642440000000"],
)
def test_a_constant_in_a_row_of_constants_is_not_replaced(code: str, writable: bool) -> None:
    """Decoding that begins in such a constant comes to the next one, and so on."""
    row = "48b890909090909066b8" * 20  # MOV RAX, imm64

    assert replace(page(row + code, 0), writable=writable, cpuid=True) is None


@pytest.mark.parametrize("leaf", ["31c0", "33c9", "b801000000", "b802000080", "b904000000"])
def test_cpuid_is_replaced(leaf: str) -> None:
    code, copy, data = leaf + "0fa2", leaf + "f4f4", "0660" * 20

    assert replace(page(code), cpuid=True) == page(copy)
    assert replace(page(data + code), cpuid=True) == page(data + copy)
    assert replace(page(code), writable=True, cpuid=True) == page(copy)
    assert replace(page(code)) == page(code)


def test_cpuid_before_a_store_of_its_results_is_replaced() -> None:
    store = "8906895e04"  # MOV [RSI], EAX; MOV [RSI + 4], EBX

    assert replace(page("0fa2" + store), writable=True, cpuid=True) == page("f4f4" + store)
    assert replace(page("0fa2" + store, PAGE - 7), writable=True, cpuid=True)
    assert replace(page("0fa2" + store[:6], PAGE - 5), writable=True, cpuid=True) is None


def test_cpuid_whose_leaf_is_chosen_elsewhere_is_replaced_in_code_alone() -> None:
    code, copy = "89c80fa2", "89c8f4f4"

    assert replace(page(code), cpuid=True) == page(copy)
    assert replace(page("0660" * 20 + code), cpuid=True) is None
    assert replace(page(code), writable=True, cpuid=True) is None
    assert replace(page(code, 20), cpuid=True) is None


@pytest.mark.parametrize("name", [*ANYWHERE, *IN_SEQUENCE])
def test_an_instruction_across_the_end_of_the_page_is_refused(name: str) -> None:
    code = bytes.fromhex({**ANYWHERE, **IN_SEQUENCE}[name])
    opcode = code.index(0x0F)
    for here in range(opcode + 1, len(code)):
        before = NOP * (PAGE - here) + code[:here]
        after = code[here:] + NOP * (PAGE - len(code) + here)
        assert not clean(before, after), here
        if here == opcode + 1:
            assert clean(before, NOP * PAGE)


LOADER_SAVE = "31d2" + "4889942450020000" * 2 + "0fc7642440"
LOADER_RESTORE = "31d2" + "0fae6c2440"


@pytest.mark.parametrize("rest", [LOADER_SAVE, LOADER_RESTORE, "31d2" + "0fae642440"])
def test_saves_of_the_guests_state_alone_may_stay(rest: str) -> None:
    for mask in ("06", "07"):
        assert clean(page("b8" + mask + "000000" + rest))
    for mask in ("08000000", "ee000000", "07010000", "07000001"):
        assert not clean(page("b8" + mask + rest))
    assert not clean(page("b907000000" + rest))
    assert not clean(page("b807000000" + rest.replace("31d2", "31c9")))
    assert not clean(page("41b807000000" + rest))  # MOV R8D
    assert not clean(page("b807000000" + rest.replace("31d2", "31d290")))
    assert clean(page("b807000000" + rest, PAGE - 30))
    assert not clean(page("0fae6c", PAGE - 3))


@pytest.mark.parametrize("rest", [LOADER_SAVE, LOADER_RESTORE])
def test_a_copy_saves_the_guests_state_alone(rest: str) -> None:
    assert replace(page("b8ee000000" + rest)) == page("b806000000" + rest)
    assert replace(page("b8e9cdab89" + rest)) == page("b801000000" + rest)
    # AND R10D, FFFh has the bytes of SLDT, so that the page is decoded.
    sldt = "4181e2ff0f0000"
    assert replace(page("b8ee000000" + rest + sldt)) == page("b806000000" + rest + sldt)


def test_data_between_instructions_are_no_code() -> None:
    # 06 and 60 are no instructions.
    data = "0660" * 20

    assert clean(page(data + "0f0000" + data))
    assert clean(page(data + "90" * 22 + "0f0000"))
    assert not clean(page(data + "90" * 24 + "0f0000"))


@pytest.mark.parametrize("table", ["20050000", "ffffffff", "fe110000", "c7080000", "8f110000"])
def test_tables_are_taken_for_data(table: str) -> None:
    """Their entries would else be valid instructions, and the last one SLDT [RAX]."""
    assert clean(page(table * 8 + "0f000000"))


def test_the_vdso_and_saves_on_the_stack_are_replaced() -> None:
    lsl, save, elsewhere = "0f03c0", "0fc76424400f1f00", "0fc720"
    vdso = b"\x7fELF" + NOP * 60 + b"linux-vdso.so.1\0" + page(lsl, 100)[80:]

    assert replace(page(save)) == page("f4f4f4f4f4" + "0f1f00")
    assert replace(vdso) == vdso.replace(bytes.fromhex(lsl), b"\xf4\xf4\xf4")
    assert replace(page(elsewhere)) is None
    assert clean(replace(vdso) or b"")


@pytest.mark.parametrize("zero", ["31c9", "33c9", "b900000000"])
def test_xgetbv_behind_a_zero_in_ecx_is_replaced(zero: str) -> None:
    assert replace(page(zero + "0f01d0")) == page(zero + "f4f4f4")
    assert replace(page("89c9" + "0f01d0")) is None


@pytest.mark.parametrize("code", ["0f01f9", "0f01d0"])
def test_rdtscp_and_xgetbv_whose_parts_are_put_together_are_replaced(code: str) -> None:
    together = "48c1e220"  # SHL RDX, 32
    for at in (14, 100, PAGE - 7):
        assert replace(page(code + together, at)) == page("f4f4f4" + together, at)
    assert replace(page(code + together, 13)) is None
    assert replace(page(code + "90" * 4)) is None
    assert replace(page(code, PAGE - 4)) is None


def test_rdseed_is_no_rdpid_where_the_page_is_decoded() -> None:
    # AND R10D, FFFh has the bytes of SLDT, so that the page is decoded.
    sldt = "4181e2ff0f0000"
    assert clean(page(sldt + "480fc7f8"))
    assert not clean(page(sldt + "f3480fc7f8"))


def test_bytes_that_are_no_instruction_are_not_replaced() -> None:
    code = page("48b8" + "0fc7642440000000")  # MOVABS RAX, imm64

    assert replace(code) == code


def test_lengths_are_those_of_a_decoder() -> None:
    """Random code that iced-x86 decodes has the same length here."""
    rng = random.Random(1)
    checked = 0
    differ: dict[str, bytes] = {}
    for _ in range(300_000):
        code = bytes(rng.choices(range(256), k=15))
        if rng.random() < 0.5:
            code = b"\x0f" + code[1:]
        insn = Decoder(64, code).decode()
        # Other vendors' instructions (XOP, PadLock, Geode) are not in programs for x86-64-v3.
        if insn.code == Code.INVALID or OTHERS & set(insn.cpuid_features()):
            continue
        if str(insn).endswith("add [rax],al"):
            continue  # zeros are taken for data
        if Decoder(64, code, DecoderOptions.AMD).decode().len != insn.len:
            continue  # a branch whose length vendors differ in
        checked += 1
        if length(code) != insn.len:
            differ[str(insn)] = code
    assert checked > 100_000
    assert not differ


@pytest.mark.parametrize("cpuid", [False, True])
def test_sequences_of_real_programs_are_followed(cpuid: bool) -> None:
    """Hardly a page of the interpreter and its libraries is refused."""
    pages: list[bytes] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, offset, _, _, *path = line.split()
        if rights == "r-xp" and path and path[0].startswith("/"):
            first, last = (int(end, 16) for end in span.split("-"))
            with Path(path[0]).open("rb") as file:
                file.seek(int(offset, 16))
                text = file.read(last - first)
            pages += [text[i : i + PAGE] for i in range(0, len(text) & -PAGE, PAGE)]
    assert len(pages) > 500
    refused = sum(not clean(*both, cpuid=cpuid) for both in pairwise(pages))
    assert refused <= len(pages) // 40


def test_fewer_instructions_of_a_writable_page_are_replaced() -> None:
    common, save = "31c9" + "0f01d0", "0fc7642440"

    assert replace(page(common), writable=True) == page("31c9" + "f4f4f4")
    assert replace(page(save), writable=True) is None
    assert replace(page("b8ee000000" + LOADER_SAVE), writable=True) is None


@pytest.mark.parametrize("prologue", ["55488bec", "554889e5"])
def test_clwb_that_begins_a_function_behind_tables_passes(prologue: str) -> None:
    tables = "0660" * 40
    assert clean(page(tables + prologue + "660fae37"))
    assert not clean(page(tables + prologue + "0fae37"))
    assert not clean(page(tables + prologue + "f30fae37"))
    assert not clean(page(tables + "660fae37"))


@pytest.mark.parametrize("code", ["0f01ee", "0f01ef"])
def test_rights_of_keys_are_replaced_in_code(code: str) -> None:
    assert replace(page(code)) == page("f4f4f4")
    assert replace(page(code), writable=True) is None
    assert replace(page("0660" * 20 + code)) is None


# cmp byte ptr [rip + 1866Ch], 1; jne +16; rdtscp; shl rdx, 32: a function of Go's runtime at the
# start of a page.
CPU_TICKS = bytes.fromhex("803d6c86010001 7510 0f01f9 48c1e220")


def test_the_page_before_tells_where_the_first_instructions_begin() -> None:
    first = CPU_TICKS.ljust(4096, b"\x90")
    padding = b"\xcc" * 4096
    copy = CPU_TICKS.replace(b"\x0f\x01\xf9", b"\xf4" * 3).ljust(4096, b"\x90")

    assert replace(first) is None
    assert replace(first, before=padding) == copy


def test_the_end_of_the_page_before_can_make_the_first_bytes_data() -> None:
    first = CPU_TICKS.ljust(4096, b"\x90")
    # mov rax, imm64, of which eight bytes are on the next page: ADC [RDI], CL begins within JNE.
    before = b"\x90" * 4094 + b"\x48\xb8"

    assert replace(first, before=before) is None
