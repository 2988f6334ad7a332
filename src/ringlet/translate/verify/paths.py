"""The paths through a translation: rules 3, 4, 7 and 8, and rule 5 at its exits."""

from typing import NamedTuple

from iced_x86 import Decoder, DecoderOptions, Instruction, Mnemonic

from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    KEYS,
    SLOTS,
    Relocation,
    Stub,
    Translation,
    predicted_at,
)
from ringlet.translate.verify.execution import Execution
from ringlet.translate.verify.facts import (
    IN_HOST,
    SCRATCH,
    Comparison,
    Facts,
    UnsoundError,
    as_form,
    at_entry,
    learn_slot,
    merge,
)
from ringlet.translate.verify.forms import MASK, ZERO, Form, Symbols, minus, shift
from ringlet.translate.verify.invariant import Invariant
from ringlet.translate.verify.plan import NONE, RSP, Kind, Plan, plan_of


class Violation(NamedTuple):
    """`reason` why the host instruction at `offset`, for the guest's at `guest`, is not sound.

    `offset` counts from the translation's start, `guest` from the fragment's.
    """

    offset: int
    guest: int
    text: str
    reason: str


class Paths:
    """The check of one translation; `plans` are shared between checks."""

    def __init__(self, translation: Translation, plans: dict[bytes, Plan]) -> None:
        self._t = translation
        self._plans = plans
        user = int(translation.key & KEYS["cpl"] == KEYS["cpl"])
        self._stepping = bool(translation.key & KEYS["step"])
        self._y = Symbols()
        self._relocated = {at: (kind, value) for at, kind, value in translation.relocations}
        compared = translation.guest_bytes if translation.checked else 0
        self._execution = Execution(self._y, user, self._relocated, compared)
        self._links = {at for at, _ in translation.links}
        self._code = _installed(translation, SLOTS[user])
        self._steps: dict[int, tuple[Instruction, Plan]] = {}
        self._starts = _instruction_starts(translation)
        self._resumes = set(translation.resumes)
        self._resumed: set[int] = set()
        self._pending: dict[int, Facts] = {}
        self._loops: dict[int, int] = {}
        self._inside: set[int] = set()
        self._back: dict[int, list[Facts]] = {}
        self._target: Form = ZERO
        self._found: list[Violation] = []
        self._at = 0

    def check(self) -> list[Violation]:
        """Return the violations; the first one on a path ends the check of all paths."""
        try:
            self._decode()
            self._check_links()
            self._follow()
        except UnsoundError as error:
            self._report(str(error))
        return self._found

    def _report(self, reason: str) -> None:
        guest = [offset for host, offset in self._t.map if host <= self._at]
        step = self._steps.get(self._at)
        text = str(step[0]) if step else ""
        self._found.append(Violation(self._at, guest[-1] if guest else 0, text, reason))

    # --- preparation

    def _decode(self) -> None:
        # Check an instruction with an invalid reserved field as if it could run.
        decoder = Decoder(64, self._code, DecoderOptions.NO_INVALID_CHECK)
        for i in decoder:
            data = self._code[i.ip : i.next_ip]
            plan = self._plans.get(data)
            if plan is None:
                plan = plan_of(i, data)
                self._plans[data] = plan
            self._steps[i.ip] = (i, plan)
            self._at = i.ip
            for access in plan.accesses:
                if access.base == NONE:
                    at = i.ip + decoder.get_constant_offsets(i).displacement_offset
                    self._check_relocated(at, access.displacement - BLOCK)

    def _check_relocated(self, at: int, offset: int) -> None:
        kind, value = self._relocated.get(at, (NONE, 0))
        if kind == Relocation.TABLE:
            sound = (value, offset) == (0, JUMP_TABLE)
        elif kind == Relocation.PREDICTED:
            sound = offset == predicted_at(self._t.linear, value)
        else:
            sound = kind == Relocation.SLOT or (kind, value) == (Relocation.STATE, offset)
        if not sound:
            raise UnsoundError("its constant address has no relocation")

    def _check_links(self) -> None:
        """Check that each link leads nowhere yet or, in a loop, back into the translation."""
        for field, _ in self._t.links:
            self._at = field
            if self._leads_to(field) != field + 4 and not self._loops_back(field):
                raise UnsoundError("a link leads out of its translation")

    def _leads_to(self, field: int) -> int:
        """Return the offset to which the distance at `field` leads."""
        distance = int.from_bytes(self._code[field : field + 4], "little", signed=True)
        return field + 4 + distance

    def _loops_back(self, link: int) -> bool:
        target = self._leads_to(link)
        return target != link + 4 and self._t.body <= target < self._t.cold

    # --- paths

    def _follow(self) -> None:
        s: Facts | None = None
        if self._t.body:
            s = at_entry(self._y)
            self._target = s.registers[8]
            s = self._run(0, self._t.body, s)
            if s is not None and not s.proved:
                raise UnsoundError("the entry lets any indirect target in")
        self._find_loops()
        s = self._run(self._t.body, self._t.cold, at_entry(self._y))
        self._at = self._t.cold
        if s is not None or self._pending or not self._resumes <= self._resumed:
            raise UnsoundError("execution runs on into code out of line")

    def _find_loops(self) -> None:
        """Find the targets of backward branches, and the last branch to each."""
        for at, (i, plan) in self._steps.items():
            if (
                plan.kind in (Kind.JUMP, Kind.BRANCH)
                and _distance_field(i) not in self._relocated
                and self._t.body <= i.near_branch_target <= at < self._t.cold
            ):
                self._loops[i.near_branch_target] = i.next_ip

    def _run(self, start: int, end: int, s: Facts | None) -> Facts | None:
        """Follow the instructions from `start`, and return the facts at `end`."""
        at = start
        while at < end:
            self._at = at
            if at not in self._steps:
                raise UnsoundError("it begins inside another instruction")
            other = self._pending.pop(at, None)
            if other is not None:
                s = other if s is None else merge(self._y, s, other)
            if at in self._resumes:
                self._resumed.add(at)
                if s is not None:
                    # Code in place and the operation lead here: what holds at exits holds at both.
                    self._leave(s)
                s = at_entry(self._y)
            if s is None:
                raise UnsoundError("no path leads to it")
            if at in self._loops and at not in self._inside:
                behind = self._loops[at]
                s = self._loop(at, behind, s)
                at = behind
                continue
            if at in self._starts:
                # Scratch registers pass no value from one guest instruction to the next.
                for scratch in SCRATCH:
                    s.registers[scratch] = self._y.fresh(host=True)
            instruction, plan = self._steps[at]
            s = self._step(s, instruction, plan)
            at = instruction.next_ip
        return s

    def _loop(self, head: int, behind: int, s: Facts) -> Facts | None:
        """Follow a loop with the facts that hold at its head in every pass.

        The first guess comes from the facts of the first arrival.  Facts that a pass does not
        preserve are dropped until it preserves all of them.
        """
        self._leave(s)
        kept = Invariant.guess(self._y, self._execution, s)
        before = dict(self._pending)
        self._inside.add(head)
        while True:
            self._pending = dict(before)
            self._back[head] = []
            after = self._run(head, behind, kept.assume(self._y))
            weaker = kept
            for back in self._back[head]:
                weaker = weaker.holding(self._y, self._execution, back)
            if weaker == kept:
                break
            kept = weaker
        self._inside.discard(head)
        return after

    def _step(self, s: Facts, i: Instruction, p: Plan) -> Facts | None:
        """Return the facts after `i`; None if execution does not continue after it."""
        match p.kind:
            case Kind.FORBIDDEN:
                raise UnsoundError(p.why)
            case Kind.JUMP:
                self._jump(s, i)
                return None
            case Kind.BRANCH:
                return self._branch(s, i, p)
            case Kind.JUMP_TABLE:
                self._indirect(s, i, p)
                return None
            case _:
                self._execution.step(s, i, p)
                return s

    def _jump(self, s: Facts, i: Instruction) -> None:
        field = _distance_field(i)
        kind, value = self._relocated.get(field, (NONE, NONE))
        if field in self._links:
            self._leave(s)
            if self._loops_back(field):
                self._within(i, s)
        elif kind != Relocation.STUB and i.near_branch_target >= self._t.cold:
            self._stale(s, i.near_branch_target)
        elif kind != Relocation.STUB:
            self._within(i, s)
        else:
            self._leave(s)
            if value == Stub.OP:
                if not 0 <= s.operation < len(self._t.operations):
                    raise UnsoundError("it leaves for no operation")
            elif not (self._stepping and value == Stub.INDIRECT):
                self._check_thunk_stub(i, value)

    def _branch(self, s: Facts, i: Instruction, p: Plan) -> Facts:
        field = _distance_field(i)
        compared, s.compared = s.compared, None
        kind, value = self._relocated.get(field, (NONE, NONE))
        if field in self._links:
            self._leave(s)
            if self._loops_back(field):
                self._within(i, s.copy())
        elif kind == Relocation.STUB:
            self._leave(s)
            self._check_thunk_stub(i, value)
            if compared is not None and compared.bits == 64 and i.mnemonic == Mnemonic.JNE:
                s.proved = self._is_here(minus(compared.left, compared.right))
        elif i.near_branch_target >= self._t.cold:
            return self._miss(s, i, compared)
        else:
            taken = s.copy()
            taken.proved = p.first != NONE and self._is_here(s.registers[p.first])
            self._within(i, taken)
        return s

    def _check_thunk_stub(self, i: Instruction, stub: int) -> None:
        if stub != Stub.INDIRECT or i.next_ip > self._t.body:
            raise UnsoundError("it leaves through a stub that is not for it")

    def _is_here(self, difference: Form) -> bool:
        """Whether `difference` = 0 proves that r8 was the fragment's address on entry."""
        return difference == shift(self._target, -self._t.linear)

    def _within(self, i: Instruction, s: Facts) -> None:
        """Follow a branch to another instruction in line: back to a loop's head, or forward."""
        target = i.near_branch_target
        if target in self._inside:
            self._leave(s)
            self._back[target].append(s.copy())
            return
        if not self._at < target < self._t.cold or target not in self._steps:
            raise UnsoundError("it branches to no instruction of its fragment")
        other = self._pending.get(target)
        self._pending[target] = s.copy() if other is None else merge(self._y, other, s)

    def _miss(self, s: Facts, i: Instruction, compared: Comparison | None) -> Facts:
        """Follow the miss of a prediction, and merge it where it returns."""
        missed = s.copy()
        here = self._at
        instruction = self._out_of_line(missed, i.near_branch_target)
        if instruction.near_branch_target != i.next_ip:
            raise UnsoundError("it does not come back to where it left")
        self._at = here
        if compared is not None and compared.bits == 16 and i.mnemonic == Mnemonic.JNE:
            learn_slot(self._y, s, compared)
        return merge(self._y, s, missed)

    def _out_of_line(self, s: Facts, at: int) -> Instruction:
        """Follow code without branches, and return the jump that ends it."""
        while True:
            if at not in self._steps:
                raise UnsoundError("it branches to no instruction")
            self._at = at
            instruction, plan = self._steps[at]
            if plan.kind is Kind.JUMP:
                return instruction
            if plan.kind in (Kind.FORBIDDEN, Kind.BRANCH, Kind.JUMP_TABLE):
                raise UnsoundError("it is not for code out of line")
            self._execution.step(s, instruction, plan)
            at = instruction.next_ip

    def _stale(self, s: Facts, at: int) -> None:
        """Follow the exit for changed guest bytes, which names the fragment and leaves."""
        end = self._out_of_line(s, at)
        if self._relocated.get(_distance_field(end)) != (Relocation.STUB, Stub.STALE):
            raise UnsoundError("it jumps to code out of line that does not leave")
        if not s.fragment:
            raise UnsoundError("it leaves for no fragment")
        self._leave(s)

    def _indirect(self, s: Facts, i: Instruction, p: Plan) -> None:
        access = p.accesses[0]
        if self._stepping:
            raise UnsoundError("the table may lead to code that does not step")
        if (
            self._relocated.get(i.next_ip - 4) != (Relocation.TABLE, 0)
            or access.base != NONE
            or access.index == NONE
            or access.scale != 8
        ):
            raise UnsoundError("it jumps through no table of targets")
        made = self._y.how(s.registers[access.index], "low16")
        if made is None or as_form(made[1]) != s.registers[8]:
            raise UnsoundError("it jumps by another index than the low 16 bits of r8")
        self._leave(s)

    # --- exits

    def _leave(self, s: Facts) -> None:
        for number in IN_HOST:
            if self._y.is_host(s.registers[number]):
                raise UnsoundError(f"register {number} holds a host address at an exit")
        if any(self._y.is_host(form) for form in s.spilled):
            raise UnsoundError("a spilled register holds a host address at an exit")
        split = self._y.split(s.registers[RSP])
        if split is None:
            raise UnsoundError("RSP is not a value and its addend at an exit")
        addend, value = split
        if s.naddend != (0, ((addend, MASK),)):
            raise UnsoundError("rsp_naddend is another addend's at an exit")
        if s.gs_base is not None:
            raise UnsoundError("GS has a new base, and no host address of it, at an exit")
        if not self._execution.near(s, addend, value):
            raise UnsoundError("RSP has moved away from every access at an exit")


def _distance_field(i: Instruction) -> int:
    """Return the offset of a branch's 32-bit distance; NONE if it has 8 bits."""
    return i.next_ip - 4 if i.len > 4 else NONE


def _instruction_starts(t: Translation) -> frozenset[int]:
    """Return the host offsets at which the code of a guest instruction begins."""
    starts = set()
    last = NONE
    for host, guest in t.map:
        if t.body <= host < t.cold and guest != last:
            starts.add(host)
            last = guest
    return frozenset(starts)


def _installed(t: Translation, slots: int) -> bytes:
    """Return the code with the addresses of constant slot entries filled in."""
    code = bytearray(t.code)
    for at, kind, value in t.relocations:
        if kind == Relocation.SLOT:
            index = (t.linear + value & MASK) >> 36 & 0xFFFF
            code[at : at + 4] = (BLOCK + slots + index * 8).to_bytes(4, "little")
    return bytes(code)
