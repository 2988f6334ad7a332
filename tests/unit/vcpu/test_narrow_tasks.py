"""Task switches by JMP, CALL, events and IRET, between 16- and 32-bit TSSs."""

import itertools

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    CODE,
    CODE0,
    CODE3,
    DATA,
    DATA0,
    DATA3,
    DB,
    DE,
    DF,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    FREE,
    FREE2,
    GDT,
    GP,
    IF,
    LDT,
    LDT_SEL,
    NAMES,
    NP,
    NT,
    OTHER_TSS,
    STACK0,
    STACK3,
    STACKS,
    START,
    TASK16,
    TASK32,
    TASK_SEL,
    TOP,
    TS,
    TSS16,
    TSS32,
    TSS_SEL,
    UNUSABLE,
    VM,
    Mode,
    Narrow,
    descriptor,
    gate,
    tss16,
    tss32,
)
from tests.unit.vcpu.narrow_model import (
    Fault,
    every_kind,
    gate_use,
    task_code,
    task_data,
    task_stack,
)

VECTOR = 0x42
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
BOTH = pytest.mark.parametrize("op", [Op.OP_JMP_FAR, Op.OP_CALL_FAR])
OLD_AND_NEW = [
    pytest.mark.parametrize("old_wide", [True, False]),
    pytest.mark.parametrize("new_wide", [True, False]),
]
LENGTH = 7


def with_task(
    new_wide: bool = True, /, *, cpl: int = 0, old_wide: int = True, **fields: int
) -> Narrow:
    """Return a processor with a second task."""
    b = Narrow(Mode.P32, cpl, wide_tss=bool(old_wide))
    add_task(b, new_wide, **fields)
    return b


def again(b: Narrow, cpl: int = 0, **fields: int) -> None:
    """Put a processor back to its first task."""
    b.reset()
    b.enter(cpl)
    add_task(b, **fields)


def add_task(b: Narrow, new_wide: bool = True, /, **fields: int) -> None:
    """Write a second task, which is available, its descriptor and its gates."""
    base, limit = (TASK32, 0x67) if new_wide else (TASK16, 0x2B)
    b.gdt(OTHER_TSS, descriptor(0xE9 if new_wide else 0xE1, base, limit))
    b.gdt(TASK_SEL, gate(5, OTHER_TSS, 0, 3))
    b.idt(VECTOR, gate(5, OTHER_TSS, 0, 3))
    b.p.write_phys(base, tss32(**fields) if new_wide else tss16(**fields))


def access(b: Narrow, selector: int) -> int:
    """Return the access byte of a descriptor."""
    return b.p.read_phys(GDT + selector + 5, 1)[0]


def saved(b: Narrow, wide: bool) -> list[int]:
    """Return the state that the first task's TSS holds: EIP to DS, and with 32 bits FS and GS."""
    return b.words(TSS32 + 32, 16, 4) if wide else b.words(TSS16 + 14, 14, 2)


# --- what is saved and loaded


@OLD_AND_NEW[0]
@OLD_AND_NEW[1]
@BOTH
@pytest.mark.parametrize("selector", [OTHER_TSS, TASK_SEL])
def test_task_switch_saves_and_loads(
    op: int, selector: int, old_wide: bool, new_wide: bool
) -> None:
    fields = {"bx": 0x1234} if not new_wide else {"ebx": 0x12345678}
    ldt = {"ldt": LDT_SEL}
    b = with_task(new_wide, old_wide=old_wide, **fields, **ldt)
    values = {name: 0x11111111 * (i + 1) for i, name in enumerate(REGISTERS) if name != "rsp"}
    b.set(rflags=IF | 3, **values)
    selectors = [b.selector(name) for name in NAMES]
    assert b.far(op, selector, 0xDEAD) == EMU_FLOW
    mask = 0xFFFFFFFF if old_wide else 0xFFFF
    order = {"rsp": TOP} | values
    kept = [START + LENGTH, IF | 3, *[order[name] & mask for name in REGISTERS], *selectors]
    assert saved(b, old_wide) == [value & mask for value in kept][: 16 if old_wide else 14]
    assert b.get("rbx") == (0x12345678 if new_wide else 0x1234)
    assert (b.get("rip"), b.get("rsp"), b.get("rax")) == (START, TOP, 0)
    assert b.get("rflags") == 2 | NT * (op == Op.OP_CALL_FAR)
    assert b.selector("fs") == (DATA0 if new_wide else 0)
    assert b.p.get_segment("ldtr") == (LDT_SEL, LDT, 0x17, 0x82)
    assert b.p.get_segment("tr")[:2] == (OTHER_TSS, TASK32 if new_wide else TASK16)
    assert b.get("cr0") & 8


@OLD_AND_NEW[0]
@OLD_AND_NEW[1]
@BOTH
def test_busy_bits_and_back_link(op: int, old_wide: bool, new_wide: bool) -> None:
    b = with_task(new_wide, old_wide=old_wide, link=0x7777)
    call = op == Op.OP_CALL_FAR
    b.far(op, OTHER_TSS, 0)
    old, new = (0x89 if old_wide else 0x81), (0xE9 if new_wide else 0xE1)
    assert (access(b, TSS_SEL), access(b, OTHER_TSS)) == (old | 2 * call, new | 2)
    assert b.p.get_segment("tr")[3] & 0xFF == new | 2
    link = b.words(TASK32 if new_wide else TASK16, 1, 2)[0]
    assert link == (TSS_SEL if call else 0x7777)


@OLD_AND_NEW[0]
@OLD_AND_NEW[1]
def test_iret_returns_to_the_calling_task(old_wide: bool, new_wide: bool) -> None:
    b = with_task(new_wide, old_wide=old_wide)
    b.set(rbx=0x1234)
    b.far(Op.OP_CALL_FAR, OTHER_TSS, 0)
    b.set(rip=0x80)
    assert b.run(Op.OP_IRET, code=b"\xcf") == EMU_FLOW
    assert b.selector("tr") == TSS_SEL
    assert (b.get("rip"), b.get("rflags")) == (START + LENGTH, 2)
    assert b.get("rbx") & 0xFFFF == 0x1234
    assert (access(b, TSS_SEL) & 2, access(b, OTHER_TSS) & 2) == (2, 0)
    ip, flags = (
        b.words(TASK32 + 32, 2, 4) if new_wide else b.words(TASK16 + 14, 2, 2)
    )  # NT is clear in what is saved
    assert (ip, flags) == (0x81, 2)


def test_task_at_an_outer_ring() -> None:
    ring3 = dict.fromkeys(("ds", "es", "fs", "gs"), DATA3 | 3)
    b = with_task(cs=CODE3 | 3, ss=STACK3 | 3, **ring3)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FLOW
    assert (b.get("cpl"), b.get("key") & 3) == (3, 3)


def test_task_in_virtual_8086_mode() -> None:
    segments = {"cs": 0x1111, "ss": 0x2222, "ds": 0x3333, "es": 0, "fs": 1, "gs": 2}
    b = with_task(eflags=VM | 2, eip=0x1234, **segments)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FLOW
    assert b.get("cpl") == 3
    loaded = {name: b.p.get_segment(name) for name in NAMES}
    assert loaded == {n: (s, s << 4, 0xFFFF, 0xF3) for n, s in segments.items()}


def test_task_with_null_data_segments() -> None:
    b = with_task(ds=0, es=3, fs=0, gs=0)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FLOW
    assert b.p.get_segment("es") == (3, 0, 0, UNUSABLE)


def test_task_switch_loads_cr3_only_with_paging() -> None:
    b = with_task(cr3=0x52000)
    b.far(Op.OP_JMP_FAR, OTHER_TSS, 0)
    assert b.get("cr3") == 0
    b = with_task(cr3=0x52000)
    b.put(0x50000, 4, 0x51007)
    b.put(0x52000, 4, 0x51007)
    b.put(0x51000, 4, *(page << 12 | 7 for page in range(256)))
    b.set(cr3=0x50000, cr0=0x80000011)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FLOW
    assert b.get("cr3") == 0x52000


def test_debug_trap_of_a_task() -> None:
    b = with_task(trap=1, eip=0x1234)
    b.set(dr7=0x755, dr6=0xFFFF0FF0)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FAULT
    assert b.fault() == (DB, None)
    assert b.p.deliver() == EMU_FLOW
    assert b.arrived() == DB
    assert b.pushed(2, 4) == [0x1234, CODE0]
    assert (b.get("dr6"), b.get("dr7")) == (0xFFFF8FF0, 0x600)


# --- which tasks there are


@pytest.mark.parametrize("kind", range(16))
@pytest.mark.parametrize("cpl", [0, 3])
@BOTH
def test_every_tss_descriptor(kind: int, cpl: int, op: int) -> None:
    b, seen, expected = with_task(), {}, {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), (0, 3)):
        again(b, cpl)
        wide = kind & 8 != 0
        base, limit = (TASK32, 0x67) if wide else (TASK16, 0x2B)
        b.gdt(OTHER_TSS, descriptor(made.access, base, limit))
        b.p.write_phys(TASK16, tss16())
        seen[made, rpl] = b.outcome(b.far(op, OTHER_TSS | rpl, 0))
        fault: Fault = None
        if made.dpl < cpl or made.dpl < rpl or kind in (3, 11):
            fault = GP, OTHER_TSS
        elif not made.present:
            fault = NP, OTHER_TSS
        expected[made, rpl] = fault
    # The other types are gates, or no descriptors of JMP and CALL.
    assert kind not in (1, 3, 9, 11) or seen == expected
    assert kind in (1, 3, 9, 11, 4, 5, 12) or set(seen.values()) == {(GP, OTHER_TSS)}


@pytest.mark.parametrize("cpl", [0, 3])
@BOTH
def test_every_task_gate(cpl: int, op: int) -> None:
    b, seen, expected = with_task(), {}, {}
    for made, rpl in itertools.product(every_kind(range(5, 6)), range(4)):
        again(b, cpl)
        b.gdt(TASK_SEL, gate(5, OTHER_TSS | 3, 0x1234, made.dpl, p=made.present))
        seen[made, rpl] = b.outcome(b.far(op, TASK_SEL | rpl, 0))
        expected[made, rpl] = gate_use(made, TASK_SEL | rpl, cpl)
    assert seen == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0, (GP, 0)),
        (0x1F8, (GP, 0x1F8)),
        (OTHER_TSS | 4, (GP, OTHER_TSS | 4)),
        (TSS_SEL, (GP, TSS_SEL)),
        (CODE0, (GP, CODE0)),
        (FREE, (NP, FREE)),
        (FREE2, (TS, FREE2)),
    ],
)
@pytest.mark.parametrize("event", [False, True])
def test_task_gate_that_leads_nowhere(
    selector: int, expected: tuple[int, int], event: bool
) -> None:
    b = with_task()
    b.gdt(FREE, descriptor(0x09, TASK32, 0x67))
    b.gdt(FREE2, descriptor(0x89, TASK32, 0x66))
    b.gdt(TASK_SEL, gate(5, selector, 0, 3))
    b.idt(VECTOR, gate(5, selector, 0, 3))
    if event:
        assert b.p.interrupt(VECTOR) == EMU_FLOW
        assert (b.arrived(), b.pushed(1, 4)) == (expected[0], [expected[1] | 1])
    else:
        assert b.far(Op.OP_JMP_FAR, TASK_SEL, 0) == EMU_FAULT
        assert b.fault() == expected
        assert (b.selector("tr"), b.get("rip"), access(b, TSS_SEL) & 2) == (TSS_SEL, START, 2)


@pytest.mark.parametrize(
    ("kind", "limit", "good"),
    [(9, 0x67, True), (9, 0x66, False), (1, 0x2B, True), (1, 0x2A, False)],
)
def test_limit_of_a_tss(kind: int, limit: int, good: bool) -> None:
    b = with_task(kind == 9)
    base = TASK32 if kind == 9 else TASK16
    b.gdt(OTHER_TSS, descriptor(0x80 | kind, base, limit))
    result = b.outcome(b.far(Op.OP_CALL_FAR, OTHER_TSS, 0))
    assert result == (None if good else (TS, OTHER_TSS))


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (0, (TS, 0)),
        (0x1F8, (TS, 0x1F8)),
        (OTHER_TSS, (TS, OTHER_TSS)),
        (CODE0, (TS, CODE0)),
        (FREE | 4, (TS, FREE | 4)),
        (FREE, (NP, FREE)),
        (FREE2, None),
    ],
)
def test_back_link_of_iret(link: int, expected: Fault) -> None:
    b = with_task()
    b.gdt(FREE, descriptor(0x0B, TASK32, 0x67))
    b.gdt(FREE2, descriptor(0x8B, TASK32, 0x67))
    b.put(TSS32, 2, link)
    b.flags_or(NT)
    assert b.outcome(b.run(Op.OP_IRET)) == expected
    assert access(b, FREE2) & 2
    assert (access(b, TSS_SEL) & 2 == 0) == (expected is None)


# --- segments of the new task, whose faults belong to it


@pytest.mark.parametrize("kind", range(32))
def test_every_code_segment_of_a_task(kind: int) -> None:
    b, seen, expected = with_task(), {}, {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        stack = [STACK0, 0x38 | 1, FREE2 | 2, STACK3 | 3][rpl]
        data = {"ds": 0, "es": 0, "fs": 0, "gs": 0}
        again(b, cs=FREE | rpl, ss=stack, eip=0x123, **data)
        b.gdt(FREE2, descriptor(0xD3, STACKS, flags=4))
        b.gdt(FREE, descriptor(made.access, CODE, flags=4))
        seen[made, rpl] = b.outcome(b.far(Op.OP_JMP_FAR, OTHER_TSS, 0)), b.get("rip")
        expected[made, rpl] = task_code(made, FREE | rpl), 0x123
    assert seen == expected


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("cpl", [0, 3])
def test_every_stack_segment_of_a_task(kind: int, cpl: int) -> None:
    b, seen, expected = with_task(), {}, {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        data = {"ds": 0, "es": 0, "fs": 0, "gs": 0}
        again(b, cs=[CODE0, 0, 0, CODE3 | 3][cpl], ss=FREE | rpl, **data)
        b.gdt(FREE, descriptor(made.access, STACKS, flags=4))
        seen[made, rpl] = b.outcome(b.far(Op.OP_JMP_FAR, OTHER_TSS, 0)), b.selector("tr")
        expected[made, rpl] = task_stack(made, FREE | rpl, cpl), OTHER_TSS
    assert seen == expected


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("register", ["ds", "es", "fs", "gs"])
def test_every_data_segment_of_a_task(kind: int, register: str) -> None:
    b, seen, expected = with_task(), {}, {}
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), (0, 3)):
        fields = {"ds": 0, "es": 0, "fs": 0, "gs": 0, register: FREE | rpl}
        again(b, cs=CODE3 | 3, ss=STACK3 | 3, **fields)
        b.gdt(FREE, descriptor(made.access, DATA, flags=4))
        fault = b.outcome(b.far(Op.OP_JMP_FAR, OTHER_TSS, 0))
        seen[made, rpl] = fault
        expected[made, rpl] = task_data(made, FREE | rpl, 3)
    assert seen == expected


@pytest.mark.parametrize("kind", range(32))
def test_every_ldt_of_a_task(kind: int) -> None:
    b, seen, expected = with_task(), {}, {}
    for made in every_kind(range(kind, kind + 1)):
        again(b, ldt=FREE)
        b.gdt(FREE, descriptor(made.access, LDT, 0x17))
        seen[made] = b.outcome(b.far(Op.OP_JMP_FAR, OTHER_TSS, 0))
        expected[made] = None if kind == 2 and made.present else (TS, FREE)
    assert seen == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ldt": LDT_SEL | 4}, (TS, LDT_SEL | 4)),
        ({"ldt": 0x1F8}, (TS, 0x1F8)),
        ({"cs": 0}, (TS, 0)),
        ({"ss": 0}, (TS, 0)),
        ({"cs": 0x1F8}, (TS, 0x1F8)),
        ({"ss": 0x1F8}, (TS, 0x1F8)),
        ({"gs": 0x1F8}, (TS, 0x1F8)),
        ({"eip": 0x10000}, (GP, 0)),
    ],
)
def test_wrong_state_of_a_task(fields: dict[str, int], expected: Fault) -> None:
    b = with_task(**fields)
    assert b.far(Op.OP_CALL_FAR, OTHER_TSS, 0) == EMU_FAULT
    assert b.fault() == expected
    assert b.selector("tr") == OTHER_TSS
    assert b.get("rflags") & NT


def test_fault_of_a_new_task_has_its_eip() -> None:
    b = with_task(gs=0x1F8, eip=0x1234)
    b.far(Op.OP_JMP_FAR, OTHER_TSS, 0)
    assert b.p.deliver() == EMU_FLOW
    assert b.arrived() == TS
    assert b.pushed(3, 4) == [0x1F8, 0x1234, CODE0]


# --- events


@pytest.mark.parametrize(("wide", "size"), [(True, 4), (False, 2)])
def test_exception_through_a_task_gate_pushes_its_error_code(wide: bool, size: int) -> None:
    b = with_task(wide)
    b.idt(GP, gate(5, OTHER_TSS, 0))
    b.p.raise_exception(GP, 0x1234)
    assert b.get("rsp") == TOP - size
    assert b.words(STACKS + TOP - size, 1, size) == [0x1234]
    assert b.get("rflags") == 2 | NT
    assert saved(b, True)[:2] == [START, 0x10002]


def test_interrupt_through_a_task_gate_and_back() -> None:
    b = with_task(cpl=3)
    b.flags_or(IF)
    assert b.p.interrupt(VECTOR) == EMU_FLOW
    assert (b.get("cpl"), b.get("rsp"), b.selector("tr")) == (0, TOP, OTHER_TSS)
    assert b.run(Op.OP_IRET) == EMU_FLOW
    assert (b.get("cpl"), b.get("rip"), b.get("rflags")) == (3, START, IF | 2)


@pytest.mark.parametrize(("dpl", "cpl", "good"), [(3, 3, True), (0, 3, False), (0, 0, True)])
def test_software_interrupt_through_a_task_gate(dpl: int, cpl: int, good: bool) -> None:
    b = with_task(cpl=cpl)
    b.idt(VECTOR, gate(5, OTHER_TSS, 0, dpl))
    b.run(Op.OP_INT, imm=VECTOR, code=bytes([0xCD, VECTOR]))
    assert (b.selector("tr") == OTHER_TSS) == good
    assert saved(b, True)[0] == (START + 2) * good


def test_task_from_virtual_8086_mode_and_back() -> None:
    b = with_task()
    b.set(rflags=VM | IF | 2)
    b.mode = Mode.V86
    b.enter(3)
    b.p.interrupt(VECTOR)
    assert (b.get("cpl"), b.get("rflags")) == (0, NT | 2)
    assert b.run(Op.OP_IRET, size=4) == EMU_FLOW
    assert (b.get("cpl"), b.get("rflags")) == (3, VM | IF | 2)
    assert b.p.get_segment("cs") == (CODE >> 4, CODE, 0xFFFF, 0xF3)


def test_double_fault_task() -> None:
    b = with_task()
    b.idt(DF, gate(5, OTHER_TSS, 0))
    b.idt(GP, 0)
    b.set(rsp=4)
    b.p.raise_exception(DE)
    assert b.selector("tr") == OTHER_TSS
    assert b.words(STACKS + b.get("rsp"), 1, 4) == [0]
    assert saved(b, True)[0] == START


def test_debug_trap_of_a_double_fault_task_is_no_shutdown() -> None:
    b = with_task(trap=1)
    b.idt(DF, gate(5, OTHER_TSS, 0))
    b.idt(GP, 0)
    assert b.p.raise_exception(GP, 0) == EMU_FLOW
    assert (b.selector("tr"), b.arrived()) == (OTHER_TSS, DB)


def test_double_fault_task_at_fault_is_a_shutdown() -> None:
    b = with_task(ss=0)
    b.idt(DF, gate(5, OTHER_TSS, 0))
    b.idt(GP, 0)
    assert b.p.raise_exception(GP, 0) == EMU_EXIT
    assert b.get("exit_kind") == 6


def test_nested_tasks_of_a_fault_in_the_new_task() -> None:
    b = with_task(gs=0x1F8)
    assert b.p.interrupt(VECTOR) == EMU_FLOW
    assert (b.selector("tr"), b.arrived()) == (OTHER_TSS, TS)
    assert b.pushed(2, 4) == [0x1F9, START]


def test_tss_that_cannot_hold_the_old_state() -> None:
    b = with_task()
    b.p.set_segment("tr", TSS_SEL, TSS32, 0x5E, 0x8B)
    assert b.far(Op.OP_JMP_FAR, OTHER_TSS, 0) == EMU_FAULT
    assert b.fault() == (TS, TSS_SEL)
