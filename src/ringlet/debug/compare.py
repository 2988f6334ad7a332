"""Compares the guest with another processor: both run each block, and a difference ends the run.

Before a block runs, the reference runs the same bytes with the same registers and memory, up to
the first instruction that is sensitive or that the reference does not know.  When the guest begins
its next block, registers and written memory must equal the reference's.  A block is compared only
the first few times it runs, because its code is translated once.

Flags that nothing reads, and flags that the manual leaves undefined, are not compared.  A block in
which an exception or an interrupt came is not compared either: the reference has none, and knows no
limits of segments.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from iced_x86 import (
    Code,
    Decoder,
    FlowControl,
    Formatter,
    FormatterSyntax,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    Register,
    RegisterExt,
    RflagsBits,
)
from iced_x86 import CpuidFeature as F

from ringlet.config import PAGE_SIZE
from ringlet.core.ops import Op
from ringlet.debug.reference import (
    GPRS,
    SEGMENTS,
    STOP,
    NarrowReference,
    Reference,
    Segment,
    State,
    WideReference,
)
from ringlet.machine.place import code_bits, written
from ringlet.translate.classify import Innocuous, Ruled, classify

_ADDRESSES: Final = {16: 0xFFFF, 32: (1 << 32) - 1, 64: (1 << 64) - 1}
"""What RIP, EIP and IP wrap around at, by the size of the code."""
_LINEAR_32: Final = (1 << 32) - 1
_BIG: Final = 1 << 14
"""D or B of a segment's rights (SDM 3A 3.4.5)."""
_LONGEST: Final = 96
_AHEAD: Final = 512
"""The number of instructions examined for live flags; the translator examines fewer."""

_VECTORS: Final = (160, 16)
"""The offset of XMM0 in an XSAVE image, and the distance between registers (SDM 1 table 10-2)."""

_FLAGS: Final = {
    RflagsBits.CF: 0x1, RflagsBits.PF: 0x4, RflagsBits.AF: 0x10, RflagsBits.ZF: 0x40,
    RflagsBits.SF: 0x80, RflagsBits.DF: 0x400, RflagsBits.OF: 0x800,
}  # fmt: skip
_STATUS: Final = 0x8D5
# Instructions that the reference lacks, or whose results it cannot know.
_BEYOND: Final = frozenset(
    {F.FPU, F.FPU287, F.FPU387, F.MMX, F.AVX, F.AVX2, F.FMA, F.F16C, F.XSAVE, F.RDRAND, F.RDSEED}
)
# Results that the manual leaves undefined, for all operands or for some counts.
_UNDEFINED: Final = frozenset(
    {
        Code.BSWAP_R16, Code.SHLD_RM16_R16_IMM8, Code.SHLD_RM16_R16_CL, Code.SHRD_RM16_R16_IMM8,
        Code.SHRD_RM16_R16_CL,
    }
)  # fmt: skip
_SSE: Final = frozenset(
    {F.SSE, F.SSE2, F.SSE3, F.SSSE3, F.SSE4_1, F.SSE4_2, F.AES, F.PCLMULQDQ, F.SHA}
)


class Cpu(Protocol):
    """The part of a processor that the comparison uses."""

    def get(self, name: str) -> int: ...
    def get_xsave(self) -> bytes: ...
    def read_linear(self, address: int, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What the meaning of code depends on: its size, and the selector and base of CS.

    64-bit code has neither.
    """

    bits: int
    selector: int = 0
    base: int = 0

    def linear(self, rip: int) -> int:
        """Return the linear address of the code at `rip`."""
        return rip if self.bits == 64 else (rip + self.base) & _LINEAR_32

    def name(self, register: str) -> str:
        """Return the name of a register, given that of 64 bits."""
        return register if self.bits == 64 or register not in _NARROW else f"e{register[1:]}"

    def place(self, rip: int) -> str:
        """Return a text for the place of the code at `rip`."""
        if self.bits == 64:
            return f"{rip:#x}"
        return written(self.bits, self.selector, rip, self.linear(rip))


_NARROW: Final = frozenset({*GPRS[:8], "rflags"})
_NO_BASE: Final = Segment(0, False)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The reference's run of a block: the state before it, and the instructions that it ran.

    `events` is the number of exceptions and interrupts up to then.  With `goes_on`, the guest does
    not begin a block where the reference ends; it may come by there later.
    """

    setting: Setting
    before: State
    path: tuple[Instruction, ...]
    end: int
    events: int
    goes_on: bool


class Comparer:
    """Compares the blocks of `cpu`; `differs` is called with a text for the first difference."""

    def __init__(self, cpu: Cpu, times: int, differs: Callable[[str], None]) -> None:
        self._cpu = cpu
        self._times = times
        self._differs = differs
        self._wide = WideReference(self._page)
        self._narrow: NarrowReference | None = None
        self._setting = Setting(64)
        self._seen: Counter[tuple[int, int, int, int]] = Counter()
        self._prediction: Prediction | None = None
        self._info = InstructionInfoFactory()
        self.compared = 0
        self.passed_over = 0

    def begins(self) -> bool:
        """Check the last block and predict the block that is about to begin, if it still may.

        Return whether the next block must be reported as well.
        """
        prediction, self._prediction = self._prediction, None
        rip = self._cpu.get("rip")
        setting = self._setting_now()
        if prediction is not None:
            if prediction.setting != setting or prediction.events != self._events():
                self.passed_over += 1
            else:
                self._check(prediction, rip)
        self._setting = setting
        key = (rip, setting.base, setting.bits, self._cpu.get("cpl"))
        if self._seen[key] < self._times:
            self._seen[key] += 1
            self._prediction = self._predict(rip)
            self.passed_over += self._prediction is None
        return self._prediction is not None

    # --- the reference

    @property
    def _reference(self) -> Reference:
        if self._setting.bits == 64:
            return self._wide
        if self._narrow is None:
            self._narrow = NarrowReference(self._page)
        return self._narrow

    def _page(self, linear: int) -> bytes | None:
        try:
            return self._cpu.read_linear(linear, PAGE_SIZE)
        except ValueError:  # not mapped, or not RAM
            return None

    def _predict(self, rip: int) -> Prediction | None:
        """Run the reference up to a taken jump, or to an instruction that it cannot run."""
        setting, before, events = self._setting, self._state(vectors=True), self._events()
        wrap = _ADDRESSES[setting.bits]
        self._reference.begin(before)
        path: list[Instruction] = []
        branches = False
        while len(path) < _LONGEST:
            stretch = self._stretch(rip, _LONGEST - len(path), _undefined(path))
            if not stretch:
                break
            after = self._reference.run(len(stretch))
            if after is None:
                # The instruction faults, as it will in the guest; this block is not compared.
                return None
            path += stretch
            rip = after
            branches = after != stretch[-1].next_ip & wrap
            if branches:
                break
        goes_on = not branches and not self._begins_a_block(rip)
        return Prediction(setting, before, tuple(path), rip, events, goes_on) if path else None

    def _begins_a_block(self, rip: int) -> bool:
        """Return whether the guest begins a block at `rip`, because a sensitive instruction is."""
        code = self._decode(rip).decode().code
        return not _is_innocuous(code, self._setting.bits)

    def _stretch(self, rip: int, most: int, undefined: int) -> list[Instruction]:
        """Return the instructions at `rip` up to a branch or one that the reference cannot run.

        That is one, too, that reads flags that are `undefined`.
        """
        result: list[Instruction] = []
        for instruction in self._decode(rip):
            if len(result) == most or not _comparable(instruction, self._setting.bits):
                break
            if self._setting.linear(instruction.ip) == STOP:
                break
            if _mask(instruction.rflags_read) & undefined:
                break
            undefined = _undefined((instruction,), undefined)
            result.append(instruction)
            if instruction.flow_control != FlowControl.NEXT:
                break
        return result

    def _decode(self, rip: int) -> Decoder:
        linear = self._setting.linear(rip)
        page = self._page(linear & ~(PAGE_SIZE - 1)) or b""
        code = page[linear % PAGE_SIZE :]
        if len(code) < 16:
            following = self._setting.linear(rip - linear % PAGE_SIZE + PAGE_SIZE)
            code += (self._page(following & _ADDRESSES[64]) or b"")[:15]
        return Decoder(self._setting.bits, code, ip=rip)

    # --- the guest

    def _setting_now(self) -> Setting:
        get, last = self._cpu.get, self._setting
        bits = code_bits(self._cpu)
        if bits == 64:
            return last if last.bits == 64 else Setting(64)
        selector, base = get("cs.selector"), get("cs.base")
        # Most blocks begin in the code segment of the last one.
        same = (bits, selector, base) == (last.bits, last.selector, last.base)
        return last if same else Setting(bits, selector, base)

    def _events(self) -> int:
        """Return the number of exceptions and interrupts that the guest has had."""
        return self._cpu.get("n_exceptions") + self._cpu.get("n_interrupts")

    def _state(self, *, vectors: bool) -> State:
        get = self._cpu.get
        names = GPRS if self._setting.bits == 64 else GPRS[:8]
        xmm: tuple[int, ...] = ()
        if vectors:
            image = self._cpu.get_xsave()
            first, step = _VECTORS
            xmm = tuple(
                int.from_bytes(image[at : at + 16], "little")
                for at in range(first, first + len(names) * step, step)
            )
        if len(names) == len(GPRS):
            segments = (*[_NO_BASE] * 4, *(Segment(get(f"{n}_base"), False) for n in ("fs", "gs")))
        else:
            segments = tuple(
                Segment(get(f"{name}.base"), bool(get(f"{name}.ar") & _BIG)) for name in SEGMENTS
            )
        return State(tuple(get(name) for name in names), get("rip"), get("rflags"), xmm, segments)

    def _check(self, prediction: Prediction, rip: int) -> None:
        """Compare the guest, now at `rip`, with the reference if the reference has been there."""
        ips = [*(i.ip for i in prediction.path), prediction.end]
        found: tuple[Sequence[Instruction], dict[str, tuple[int, int]]] | None = None
        # The guest may have stopped within the block, at a fragment's end or for a host's timer.
        for ran in (n for n in range(len(ips) - 1, 0, -1) if ips[n] == rip):
            if ran < len(prediction.path):
                self._reference.rerun(prediction.before, ran)
            path = prediction.path[:ran]
            found = path, self._differences(path)
            if not found[1]:
                break
        doubtful = prediction.goes_on or any(
            i.near_branch_target == ips[0] for i in prediction.path
        )
        if found is None or (found[1] and (doubtful or len(found[0]) < len(prediction.path))):
            # An exception or an interrupt came, or a loop returned to its own start without
            # beginning a new block, or into the block from behind what the reference can run.
            self.passed_over += 1
            return
        self.compared += 1
        if found[1]:
            self._differs(self._report(*found))

    def _differences(self, path: Sequence[Instruction]) -> dict[str, tuple[int, int]]:
        """Return the differences by name, as (the guest's value, the reference's value)."""
        uses = any(f in _SSE for i in path for f in i.cpuid_features())
        ours, theirs = self._state(vectors=uses), self._reference.state(vectors=uses)
        wrong = {
            name: (mine, its)
            for name, mine, its in zip(GPRS, ours.gpr, theirs.gpr, strict=False)
            if mine != its
        }
        if uses:
            pairs = enumerate(zip(ours.xmm, theirs.xmm, strict=True))
            wrong |= {f"xmm{i}": pair for i, pair in pairs if pair[0] != pair[1]}
        flags = (ours.rflags ^ theirs.rflags) & (_STATUS | 0x400)
        flags &= ~_undefined(path)
        if flags and self._read_later(ours.rip, flags):
            wrong["rflags"] = ours.rflags, theirs.rflags
        for address, data in self._reference.written().items():
            try:
                here = self._cpu.read_linear(address, len(data))
            except ValueError:
                here = b""
            if here != data:
                wrong[f"[{address:#x}]"] = (
                    int.from_bytes(here, "little"), int.from_bytes(data, "little"),
                )  # fmt: skip
        return wrong

    def _read_later(self, rip: int, flags: int) -> int:
        """Return those of `flags` that the code at `rip` may read before it writes them."""
        read = 0
        paths = [(rip, flags)]
        for _ in range(_AHEAD):
            if not paths:
                return read
            rip, flags = paths.pop()
            instruction = self._decode(rip).decode()
            read |= _mask(instruction.rflags_read) & flags
            flags &= ~_mask(instruction.rflags_modified)
            if not flags:
                continue
            following = instruction.next_ip & _ADDRESSES[self._setting.bits]
            match instruction.flow_control:
                case FlowControl.NEXT:
                    paths.append((following, flags))
                case FlowControl.UNCONDITIONAL_BRANCH | FlowControl.CALL:
                    paths.append((instruction.near_branch_target, flags))
                case FlowControl.CONDITIONAL_BRANCH:
                    paths += (following, flags), (instruction.near_branch_target, flags)
                case _:
                    read |= flags
        for _, left in paths:
            read |= left
        return read

    # --- the report

    def _report(self, path: Sequence[Instruction], wrong: dict[str, tuple[int, int]]) -> str:
        """Return a text that names the first instruction whose result differs in the guest."""
        first = min(self._writer(path, name) for name in wrong)
        names = [name for name in wrong if self._writer(path, name) == first]
        instruction = path[first]
        text = Formatter(FormatterSyntax.NASM).format(instruction)
        setting = self._setting
        what = "; ".join(
            f"{setting.name(name)} is {wrong[name][0]:#x}, not {wrong[name][1]:#x}"
            for name in names
        )
        return (
            f"the guest differs from the reference at {setting.place(instruction.ip)}, {text}: "
            f"{what} (in the block at {setting.place(path[0].ip)}, {len(path)} instructions)"
        )

    def _writer(self, path: Sequence[Instruction], name: str) -> int:
        """Return the index of the last instruction that writes a register, flags, or memory."""
        for i in range(len(path) - 1, -1, -1):
            info = self._info.info(path[i])
            if name == "rflags":
                if path[i].rflags_modified:
                    return i
            elif name.startswith("["):
                if any(_writes(m.access) for m in info.used_memory()):
                    return i
            elif any(
                _writes(r.access) and _full(r.register) == name for r in info.used_registers()
            ):
                return i
        return 0


def _is_innocuous(code: int, bits: int) -> bool:
    """Return whether an instruction is innocuous, or only its encoding keeps it from the host."""
    match classify(code, bits):
        case Innocuous():
            return True
        case Ruled(rule):
            return rule.op == Op.OP_EMULATE
        case _:
            return False


def _comparable(instruction: Instruction, bits: int) -> bool:
    """Return whether an instruction is innocuous and the reference runs it in one step.

    The reference runs a repeated string instruction in several steps.
    """
    if instruction.is_invalid or not _is_innocuous(instruction.code, bits):
        return False
    if instruction.code in _UNDEFINED:
        return False
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        return False
    return _BEYOND.isdisjoint(instruction.cpuid_features())


_REGISTERS: Final = {
    **{getattr(Register, name.upper()): name for name in GPRS},
    **{Register.ZMM0 + i: f"xmm{i}" for i in range(16)},
}


_ROTATIONS: Final = frozenset({Mnemonic.RCL, Mnemonic.RCR, Mnemonic.ROL, Mnemonic.ROR})


def _mask(bits: int) -> int:
    return sum(flag for bit, flag in _FLAGS.items() if bits & bit)


def _undefined(path: Sequence[Instruction], result: int = 0) -> int:
    """Return the flags that the manual leaves undefined after `path`; `result` were so before."""
    for i in path:
        result = result & ~_mask(i.rflags_modified) | _mask(i.rflags_undefined)
        if i.mnemonic in _ROTATIONS:
            result |= _FLAGS[RflagsBits.OF]  # but for a count of 1
    return result


def _writes(access: int) -> bool:
    return access in (
        OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE,
    )  # fmt: skip


def _full(register: int) -> str:
    return _REGISTERS.get(RegisterExt.full_register(register), "")  # type: ignore[arg-type]  # its `Register` is a module of ints
