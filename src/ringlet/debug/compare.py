"""Compares the guest with another processor: both run each block, and a difference ends the run.

Before a block runs, the reference runs the same bytes with the same registers and memory, up to
the first instruction that is sensitive or that the reference does not know.  When the guest begins
its next block, registers and written memory must equal the reference's.  A block is compared only
the first few times it runs, because its code is translated once.

Flags that nothing reads, and flags that the manual leaves undefined, are not compared.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from iced_x86 import CpuidFeature as F
from iced_x86 import (
    Decoder,
    FlowControl,
    Formatter,
    FormatterSyntax,
    Instruction,
    InstructionInfoFactory,
    OpAccess,
    Register,
    RegisterExt,
    RflagsBits,
)

from ringlet.config import PAGE_SIZE
from ringlet.debug.reference import GPRS, Reference, State
from ringlet.translate.classify import Innocuous, classify

_ADDRESS: Final = (1 << 64) - 1
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
_SSE: Final = frozenset(
    {F.SSE, F.SSE2, F.SSE3, F.SSSE3, F.SSE4_1, F.SSE4_2, F.AES, F.PCLMULQDQ, F.SHA}
)


class Cpu(Protocol):
    """The part of a processor that the comparison uses."""

    def get(self, name: str) -> int: ...
    def get_xsave(self) -> bytes: ...
    def read_linear(self, address: int, size: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """The reference's run of a block: the state before it, and the instructions that it ran."""

    before: State
    path: tuple[Instruction, ...]
    end: int


class Comparer:
    """Compares the blocks of `cpu`; `differs` is called with a text for the first difference."""

    def __init__(self, cpu: Cpu, times: int, differs: Callable[[str], None]) -> None:
        self._cpu = cpu
        self._times = times
        self._differs = differs
        self._reference = Reference(self._page)
        self._seen: Counter[tuple[int, int]] = Counter()
        self._prediction: Prediction | None = None
        self._info = InstructionInfoFactory()
        self.compared = 0
        self.passed_over = 0

    def begins(self) -> None:
        """Check the last block and predict the block that is about to begin."""
        prediction, self._prediction = self._prediction, None
        rip = self._cpu.get("rip")
        if prediction is not None:
            self._check(prediction, rip)
        key = (rip, self._cpu.get("cpl"))
        if self._seen[key] < self._times:
            self._seen[key] += 1
            self._prediction = self._predict(rip)
            self.passed_over += self._prediction is None

    # --- the reference

    def _page(self, linear: int) -> bytes | None:
        try:
            return self._cpu.read_linear(linear, PAGE_SIZE)
        except ValueError:  # not mapped, or not RAM
            return None

    def _predict(self, rip: int) -> Prediction | None:
        """Run the reference up to a taken jump, or to an instruction that it cannot run."""
        before = self._state(vectors=True)
        self._reference.begin(before)
        path: list[Instruction] = []
        while len(path) < _LONGEST:
            stretch = self._stretch(rip, _LONGEST - len(path))
            if not stretch:
                break
            after = self._reference.run(len(stretch))
            if after is None:
                # The instruction faults, as it will in the guest; this block is not compared.
                return None
            path += stretch
            rip = after
            if after != stretch[-1].next_ip & _ADDRESS:
                break
        return Prediction(before, tuple(path), rip) if path else None

    def _stretch(self, rip: int, most: int) -> list[Instruction]:
        """Return the instructions at `rip` up to a branch or one that the reference cannot run."""
        result: list[Instruction] = []
        for instruction in self._decode(rip):
            if len(result) == most or not _comparable(instruction):
                break
            result.append(instruction)
            if instruction.flow_control != FlowControl.NEXT:
                break
        return result

    def _decode(self, rip: int) -> Decoder:
        page = self._page(rip & ~(PAGE_SIZE - 1)) or b""
        code = page[rip % PAGE_SIZE :]
        if len(code) < 16:
            code += (self._page((rip | PAGE_SIZE - 1) + 1 & _ADDRESS) or b"")[:15]
        return Decoder(64, code, ip=rip)

    # --- the guest

    def _state(self, *, vectors: bool) -> State:
        get = self._cpu.get
        xmm: tuple[int, ...] = ()
        if vectors:
            image = self._cpu.get_xsave()
            first, step = _VECTORS
            xmm = tuple(
                int.from_bytes(image[at : at + 16], "little")
                for at in range(first, first + 16 * step, step)
            )
        return State(
            tuple(get(name) for name in GPRS), get("rip"), get("rflags"), xmm,
            get("fs_base"), get("gs_base"),
        )  # fmt: skip

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
        loops = any(i.near_branch_target == ips[0] for i in prediction.path)
        if found is None or (found[1] and (loops or len(found[0]) < len(prediction.path))):
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
            for name, mine, its in zip(GPRS, ours.gpr, theirs.gpr, strict=True)
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
            following = instruction.next_ip & _ADDRESS
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
        what = "; ".join(
            f"{name} is {wrong[name][0]:#x}, not {wrong[name][1]:#x}" for name in names
        )
        return (
            f"the guest differs from the reference at {instruction.ip:#x}, {text}: {what} "
            f"(in the block at {path[0].ip:#x}, {len(path)} instructions)"
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


def _comparable(instruction: Instruction) -> bool:
    """Return whether an instruction is innocuous and the reference runs it in one step.

    The reference runs a repeated string instruction in several steps.
    """
    if instruction.is_invalid or not isinstance(classify(instruction.code), Innocuous):
        return False
    if instruction.has_rep_prefix or instruction.has_repne_prefix:
        return False
    return _BEYOND.isdisjoint(instruction.cpuid_features())


_REGISTERS: Final = {
    **{getattr(Register, name.upper()): name for name in GPRS},
    **{Register.ZMM0 + i: f"xmm{i}" for i in range(16)},
}


def _mask(bits: int) -> int:
    return sum(flag for bit, flag in _FLAGS.items() if bits & bit)


def _undefined(path: Sequence[Instruction]) -> int:
    """Return the flags that the manual leaves undefined at the end of `path`."""
    result = 0
    for i in path:
        result = result & ~_mask(i.rflags_modified) | _mask(i.rflags_undefined)
    return result


def _writes(access: int) -> bool:
    return access in (
        OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE,
    )  # fmt: skip


def _full(register: int) -> str:
    return _REGISTERS.get(RegisterExt.full_register(register), "")  # type: ignore[arg-type]  # its `Register` is a module of ints
