"""The listing: each guest instruction with its class and its host code."""

import json

import pytest

from ringlet.explain import render
from ringlet.explain.listing import GuestLine, Kind, explain
from ringlet.explain.source import Code, from_hex


def lines(code: str, cpl: int = 0) -> list[GuestLine]:
    listing = explain(from_hex(code), cpl)
    return [guest for fragment in listing.fragments for guest in fragment.guest]


def texts(code: str) -> list[str]:
    return [host.text for guest in lines(code) for host in guest.host]


@pytest.mark.parametrize(
    ("code", "kind", "operation"),
    [
        ("90", Kind.INNOCUOUS, ""),
        ("fa", Kind.INLINED, ""),
        ("0fa2", Kind.LEAVES, "OP_CPUID"),
        ("f30f1ec8", Kind.IGNORED, ""),
        ("62f1740858c2", Kind.REFUSED, "OP_UD"),
        ("06", Kind.REFUSED, "OP_UD"),
        ("0f0b", Kind.LEAVES, "OP_UD"),
        ("660ff7c1", Kind.EMULATED, "OP_EMULATE"),
    ],
)
def test_class_of_an_instruction(code: str, kind: Kind, operation: str) -> None:
    guest = lines(code)[0]

    assert (guest.kind, guest.operation) == (kind, operation)


def test_sensitive_instruction_has_its_reason_and_section() -> None:
    (guest,) = lines("0fa2")

    assert guest.manual.startswith("vol. 2A CPUID")
    assert "unprivileged" in guest.reason


def test_privilege_decides() -> None:
    assert lines("fa", cpl=0)[0].kind is Kind.INLINED
    assert lines("fa", cpl=3)[0].kind is Kind.LEAVES


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("4d89c1", "mov [state.r9], r8"),
        ("488b07 11c0", "mov r10, [r10*8 + slots]"),
        ("488b3f 4885ff 75f8", "movzx r10d, word ptr [predicted]"),
        ("488b0500010000", "mov r8, [slot of 0x401107]"),
        ("488b0500010000", "mov rax, [r8 + 0x401107]"),
        ("488b042500f0ffff", "mov r8, [slots + 0x7fff8]"),
        ("65488b0425f8ffffff", "mov r8, [state.gs_host]"),
        ("65488b03", "mov r8, [state.gs_base]"),
        ("4889c4", "mov r8, [r9*8 + -slots]"),
        ("4889c4", "mov [state.rsp_naddend], r8"),
        ("a4", "mov [state.scratch0], r9"),
        ("0fa2", "mov qword ptr [state.op_info], OP_CPUID"),
        ("0fa2", "jmp stub.op"),
        ("ebfe", "jmp -> 0x401000 (link)"),
        ("7510", "jne -> 0x401012 (link)"),
        ("e810000000", "push 0x401005"),
        ("ffe0", "jmp qword ptr [r9*8 + jumps]"),
        ("9c", "pext r8, r8, [state.arith_mask]"),
    ],
)
def test_host_operands_are_named(code: str, text: str) -> None:
    assert text in texts(code)


def test_kernel_addresses_are_shown_whole() -> None:
    listing = explain(Code("kernel", 0xFFFFFFFF81000000, bytes.fromhex("488b0500010000")))

    host = [line.text for line in listing.fragments[0].guest[0].host]
    assert host[1] == "mov rax, [r8 + 0xffffffff81000107]"


def test_instruction_that_runs_as_it_is_is_marked() -> None:
    marks = [[host.same for host in guest.host] for guest in lines("4801d8 488b07 9c 4889e0")]

    assert marks[0] == [True]
    assert not any(mark for row in marks[1:] for mark in row)


def test_missed_prediction_stands_apart() -> None:
    fragment = explain(from_hex("90 488b3f 4885ff 75f7 31c0")).fragments[0]

    assert [cold.linear for cold in fragment.cold] == [0x401001]
    assert fragment.cold[0].host[0].label == "miss1"
    assert fragment.cold[0].host[1].text == "add word ptr [misses], 1"
    assert fragment.guest[1].host[3].text == "jne miss1"
    assert fragment.cold[0].host[-1].text == "jmp found1"


def test_loop_has_its_later_passes() -> None:
    fragment = explain(from_hex("488b07 4883c708 ffc9 75f5 c3")).fragments[0]

    assert len(fragment.guest) == 5
    assert [guest.linear for guest in fragment.again] == [0x401000, 0x401003, 0x401007, 0x401009]
    assert fragment.again[0].host[0].label == "again1"
    assert fragment.again_end[0].text == "jmp -> 0x40100b (link)"


@pytest.mark.parametrize("thunk", [False, True])
def test_entry_is_shown_on_demand(thunk: bool) -> None:
    fragment = explain(from_hex("31c0"), thunk=thunk).fragments[0]

    assert bool(fragment.thunk) == thunk


def test_fragments_cover_the_range() -> None:
    listing = explain(from_hex("eb00 c3 90 e800000000 90"))

    starts = [fragment.linear - 0x401000 for fragment in listing.fragments]
    assert starts == [0, 2, 3, 9]
    assert listing.rest == b""


def test_bytes_that_are_no_whole_instruction_are_the_rest() -> None:
    listing = explain(from_hex("90 488b"))

    assert listing.rest == b"\x48\x8b"
    assert "no whole instruction at the end: 48 8b" in render.as_text(listing)


def test_instruction_over_a_page_boundary_is_a_fragment() -> None:
    listing = explain(Code("cross", 0x401FFE, bytes.fromhex("488b4708 c3")))

    assert [f.guest_bytes for f in listing.fragments] == [4, 1]


def test_every_host_instruction_is_shown_once() -> None:
    fragment = explain(
        from_hex("488b07 4883c708 50 7402 0fa2 f3a4 9c 31c0 75e8 c3"), thunk=True
    ).fragments[0]

    shown = [
        line.offset
        for part in (
            fragment.thunk,
            *(guest.host for guest in fragment.guest),
            fragment.end,
            *(guest.host for guest in fragment.again),
            fragment.again_end,
            *(cold.host for cold in fragment.cold),
        )
        for line in part
    ]
    assert len(shown) == len(set(shown))
    assert sorted(shown) == shown


# --- rendering


def test_text_has_two_columns_and_no_trailing_blanks() -> None:
    text = render.as_text(explain(from_hex("488b07 c3")))

    assert text == (
        "hex: 4 bytes, CPL 0, 1 fragment\n"
        "\n"
        "fragment 0x401000: 2 instructions, 4 bytes -> 36\n"
        "  401000  mov rax, [rdi]                      rorx r10, rdi, 0x24\n"
        "                                              movzx r10d, r10w\n"
        "                                              mov r10, [r10*8 + slots]\n"
        "                                              mov rax, [rdi + r10]\n"
        "  401003  ret                                 pop r8\n"
        "                                              movzx r9d, r8w\n"
        "                                              jmp qword ptr [r9*8 + jumps]\n"
    )


def test_reasons_are_wrapped_below_the_instruction() -> None:
    text = render.as_text(explain(from_hex("0fa2")))

    assert "! sensitive, leaves for OP_CPUID (SDM vol. 2A CPUID" in text
    assert max(map(len, text.splitlines())) <= render.WIDTH


def test_reasons_may_be_left_out() -> None:
    text = render.as_text(explain(from_hex("0fa2")), reasons=False)

    assert "! sensitive, leaves for OP_CPUID\n" in text


def test_bytes_are_shown_on_demand() -> None:
    text = render.as_text(explain(from_hex("4801d8")), with_bytes=True)

    assert "48 01 d8" in text.splitlines()[3].split("=")[0]
    assert "0000  48 01 d8" in text


def test_json_holds_everything() -> None:
    code = from_hex("90 0fa2 488b3f 4885ff 75f5")
    made = json.loads(json.dumps(render.as_json(explain(code, 3))))

    (fragment,) = made["fragments"]
    assert made["cpl"] == 3
    assert [i["bytes"] for i in fragment["instructions"]][:4] == ["90", "0fa2", "488b3f", "4885ff"]
    assert fragment["instructions"][1]["class"] == "leaves"
    assert fragment["instructions"][1]["operation"] == "OP_CPUID"
    assert fragment["cold"][0]["linear"] == "0x401003"
