"""The general emulator: performs one innocuous instruction that translated code cannot.

Such an instruction accesses a device, straddles the end of a mapping in a window, or has no form in
the translator.  It is not interpreted.  The emulator reads its operands through the virtual MMU
with the guest's rights, and then runs the same instruction on the host, with the guest's registers,
on a copy of the operands (`ringlet.vcpu.emulation.native`).  Other modules of this package perform
stack instructions, transfers, instructions that access memory lane by lane, and those that the host
does not have: it runs 64-bit code, the guest any.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from iced_x86 import (
    Code,
    Code_,
    Decoder,
    DecoderError,
    EncodingKind,
    Instruction,
    Mnemonic,
    Mnemonic_,
    OpAccess,
    OpCodeInfo,
    OpKind,
)

from ringlet.core.ops import Op
from ringlet.observe import EmulatedForm
from ringlet.translate.classify import Innocuous, Ruled, classify
from ringlet.translate.features import OFFERED
from ringlet.vcpu.emulation.access import Accesses, Step
from ringlet.vcpu.emulation.decimal import Decimal, SetByCarry
from ringlet.vcpu.emulation.flow import flow_step, is_flow
from ringlet.vcpu.emulation.lanes import BYTE_MASKED, GATHERS, MASKED, Gather, Masked, Xlat
from ringlet.vcpu.emulation.narrow import AdjustPrivilege, Bound, PopAll, PushAll
from ringlet.vcpu.emulation.native import Native
from ringlet.vcpu.emulation.operands import (
    has_memory_operand,
    info_of,
    operand_of,
)
from ringlet.vcpu.emulation.plain import (
    Address,
    Bits,
    Nothing,
    Plain,
    Registers,
    Touch,
    Undefined,
)
from ringlet.vcpu.emulation.strings import String, is_string

_TF: Final = 1 << 8
_MAX_LENGTH: Final = 15
_ROOM: Final = 1024
_KEPT: Final = 4096

_BIT_TESTS: Final = frozenset({Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC})
_CACHE_LINES: Final = frozenset(
    {Mnemonic.CLFLUSH, Mnemonic.CLFLUSHOPT, Mnemonic.CLWB, Mnemonic.CLDEMOTE}
)


class Emulator:
    """Performs the instruction at RIP of one virtual processor."""

    def __init__(self, native: Native, features: frozenset[str] = OFFERED) -> None:
        self._native = native
        self._features = features
        # The first item of a key is `Native.mode`.
        self._by_window: dict[tuple[int, bytes], tuple[Step, Code_]] = {}
        self._steps: dict[tuple[int, bytes], Step] = {}
        self._last: Code_ = Code.INVALID
        self._counts: dict[Code_, int] = {}
        self._of_devices: dict[Code_, int] = {}

    def fetch_and_execute(self) -> Accesses:
        """Fetch the instruction at RIP and perform it as `execute` does."""
        native = self._native
        window = native.fetch(native.rip)
        if window is None:
            return False
        decoder = Decoder(native.bits, window)
        decoder.decode()
        if decoder.last_error == DecoderError.NO_MORE_BYTES and len(window) < _MAX_LENGTH:
            rest = native.fetch(native.rip + len(window) & (1 << 64) - 1)
            if rest is None:
                return False
            window = (window + rest)[:_MAX_LENGTH]
        return (yield from self.execute(window))

    def execute(self, window: bytes) -> Accesses:
        """Perform one instruction, or some repetitions of a string instruction.

        `window` begins with its bytes as they were fetched; memory at RIP may have changed since.
        Accesses to devices are yielded.  False: an exception is set and has to be delivered; for
        the single-step trap, RIP is past the instruction.
        """
        native = self._native
        stepping, rip = native.rflags & _TF, native.rip
        step, code = self._step(window)
        self._last = code
        self._counts[code] = self._counts.get(code, 0) + 1
        if isinstance(step, Sensitive):
            native.leave_to_processor()
            return True
        if not (yield from step.run(native)):
            return False
        native.done(native.rip != rip or not isinstance(step, String))
        if stepping:
            native.step_trap()
            return False
        return True

    def reached_device(self) -> None:
        """Note that the instruction begun last accesses a device."""
        self._of_devices[self._last] = self._of_devices.get(self._last, 0) + 1

    def forms(self) -> list[EmulatedForm]:
        """Return the instruction forms performed so far, the most frequent first."""
        found = [
            EmulatedForm(OpCodeInfo(code).instruction_string, count, self._of_devices.get(code, 0))
            for code, count in self._counts.items()
        ]
        return sorted(found, key=lambda form: (-form.count, form.name))

    def _step(self, window: bytes) -> tuple[Step, Code_]:
        """Return the step that performs the instruction at the start of `window`, and its form."""
        native = self._native
        mode = native.mode
        known = self._by_window.get((mode, window))
        if known is not None:
            return known
        instruction = Decoder(native.bits, window).decode()
        if native.room < _ROOM or len(self._by_window) >= _KEPT:
            native.forget()
            self._by_window.clear()
            self._steps.clear()
        code = window[: instruction.len] if instruction.code != Code.INVALID else window
        step = self._steps.get((mode, code))
        if step is None:
            step = self._steps[mode, code] = make_step(native, instruction, self._features)
        found = self._by_window[mode, window] = step, instruction.code
        return found


class Sensitive:
    """An instruction that is not innocuous, which a rule of the translator handles."""

    __slots__ = ()

    def run(self, native: Native) -> Accesses:
        """Do nothing: the code at RIP has changed since its translation, so translate it again."""
        del native
        yield from ()
        return True


def make_step(native: Native, instruction: Instruction, features: frozenset[str] = OFFERED) -> Step:
    """Return the step that performs an instruction, decoded at address 0, with `features`."""
    kind = classify(instruction.code, native.bits, features)
    if isinstance(kind, Ruled):
        if kind.rule.op == Op.OP_NONE:
            return Nothing(instruction)
        if kind.rule.op == Op.OP_UD:
            return Undefined()
        if kind.rule.op not in {Op.OP_EMULATE, Op.OP_PUSHF}:
            return Sensitive()
    elif not isinstance(kind, Innocuous) or (native.real and is_vex(instruction)):
        return Undefined()
    make = _FAMILIES.get(instruction.mnemonic)
    if make is not None:
        return make(native, instruction)
    if is_flow(instruction):
        return flow_step(native, instruction)
    if is_string(instruction):
        return String(native, instruction)
    return _with_operand(native, instruction)


def is_vex(instruction: Instruction) -> bool:
    """Whether an instruction is undefined in real and virtual-8086 mode (SDM 2A 2.3.13)."""
    return bool(OpCodeInfo(instruction.code).encoding == EncodingKind.VEX)


_FAMILIES: Final[Mapping[Mnemonic_, Callable[[Native, Instruction], Step]]] = MappingProxyType(
    dict.fromkeys((*MASKED, *BYTE_MASKED), Masked)
    | dict.fromkeys(GATHERS, Gather)
    | dict.fromkeys((Mnemonic.PUSHA, Mnemonic.PUSHAD), PushAll)
    | dict.fromkeys((Mnemonic.POPA, Mnemonic.POPAD), PopAll)
    | dict.fromkeys(
        (Mnemonic.AAA, Mnemonic.AAS, Mnemonic.AAM, Mnemonic.AAD, Mnemonic.DAA, Mnemonic.DAS),
        Decimal,
    )
    | {
        Mnemonic.XLATB: Xlat,
        Mnemonic.LEA: Address,
        Mnemonic.SALC: SetByCarry,
        Mnemonic.BOUND: Bound,
        Mnemonic.ARPL: AdjustPrivilege,
    }
)


def _with_operand(native: Native, instruction: Instruction) -> Step:
    """Return the step of an instruction whose only memory operand, if any, is ModRM's."""
    if not has_memory_operand(instruction):
        return Registers(native, instruction)
    used = info_of(instruction).used_memory()
    if not used or used[0].access == OpAccess.NO_MEM_ACCESS:
        return Nothing(instruction)
    operand = operand_of(instruction, used[0])
    if instruction.code == Code.MOVSXD_R16_RM16:
        # Processors read all 32 bits of the operand.
        operand.size = 4
    mnemonic = instruction.mnemonic
    if mnemonic in _CACHE_LINES:
        return Touch(instruction, operand)
    if mnemonic in _BIT_TESTS and instruction.op1_kind == OpKind.REGISTER:
        return Bits(native, instruction, operand)
    return Plain(native, instruction, operand)
