"""Vector instructions that access memory lane by lane: masked moves and gathers, and XLAT.

Lanes outside the mask are not accessed, and they cannot fault except with MASKMOV.
"""

from dataclasses import dataclass
from typing import Final

from iced_x86 import (
    Code,
    Instruction,
    MemoryOperand,
    Mnemonic,
    Register,
    Register_,
    RegisterExt,
)

from ringlet.arch.vendors import Conduct
from ringlet.vcpu.emulation.access import Accesses, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, Native
from ringlet.vcpu.emulation.operands import (
    ALL64,
    RAX,
    RDI,
    encode,
    explicit_operand,
    info_of,
    is_canonical,
    on_bounce,
    on_pointers,
    operand_of,
    size_of,
)

_UD: Final = 6
_TF: Final = 1 << 8
_MOVD_EAX_MM0: Final = bytes.fromhex("0f7ec0")

MASKED: Final = {
    Mnemonic.VMASKMOVPS: 4,
    Mnemonic.VMASKMOVPD: 8,
    Mnemonic.VPMASKMOVD: 4,
    Mnemonic.VPMASKMOVQ: 8,
}
"""Masked loads and stores, and the size of their lanes in bytes; the mask is the second operand."""

BYTE_MASKED: Final = frozenset({Mnemonic.MASKMOVQ, Mnemonic.MASKMOVDQU, Mnemonic.VMASKMOVDQU})
"""Stores to [RDI], whose mask is the third operand."""


@dataclass(frozen=True, slots=True)
class _Gather:
    """Sizes of a gather's index and its lanes in bytes."""

    index: int
    lane: int


GATHERS: Final = {
    Mnemonic.VPGATHERDD: _Gather(4, 4),
    Mnemonic.VPGATHERDQ: _Gather(4, 8),
    Mnemonic.VPGATHERQD: _Gather(8, 4),
    Mnemonic.VPGATHERQQ: _Gather(8, 8),
    Mnemonic.VGATHERDPS: _Gather(4, 4),
    Mnemonic.VGATHERDPD: _Gather(4, 8),
    Mnemonic.VGATHERQPS: _Gather(8, 4),
    Mnemonic.VGATHERQPD: _Gather(8, 8),
}


def runs(mask: bytes, lane: int, size: int) -> list[tuple[int, int]]:
    """Return (offset, size) in bytes of the runs of lanes whose highest mask bit is set."""
    result: list[tuple[int, int]] = []
    for at in range(0, size, lane):
        if not mask[at + lane - 1] & 0x80:
            continue
        if result and sum(result[-1]) == at:
            start, length = result[-1]
            result[-1] = (start, length + lane)
        else:
            result.append((at, lane))
    return result


def spread(mask: bytes | bytearray, lane: int) -> bytes:
    """Return the mask with the highest bit of each lane copied to all its bits."""
    return b"".join(
        (b"\xff" if mask[at + lane - 1] & 0x80 else b"\0") * lane
        for at in range(0, len(mask), lane)
    )


class Masked:
    """VMASKMOV, VPMASKMOV and MASKMOV, on a bounce area that holds only the selected lanes."""

    __slots__ = (
        "_enter_mmx", "_entry", "_implicit", "_lane", "_length", "_mask", "_mmx", "_operand",
        "_parts", "_size", "_store",
    )  # fmt: skip

    def __init__(self, native: Native, instruction: Instruction) -> None:
        memory = info_of(instruction).used_memory()[0]
        self._length = instruction.len
        self._operand = operand_of(instruction, memory)
        self._implicit = instruction.mnemonic in BYTE_MASKED
        self._size = self._operand.size
        self._store = self._operand.writes
        # At most every other lane begins a run.
        self._parts = [operand_of(instruction, memory) for _ in range(8)]
        self._mmx = instruction.mnemonic == Mnemonic.MASKMOVQ
        if self._implicit:
            self._lane = 1
            self._mask = RegisterExt.number(instruction.op2_register)
            self._entry = native.place(on_pointers(instruction))
            if self._mmx:
                self._enter_mmx = native.place(_MOVD_EAX_MM0)
        else:
            self._lane = MASKED[instruction.mnemonic]
            self._mask = RegisterExt.number(instruction.op1_register)
            self._entry = native.place(on_bounce(instruction, native.bounce + FIRST))

    def run(self, native: Native) -> Accesses:
        mask = native.mmx(self._mask) if self._mmx else native.vector(self._mask)
        lanes = runs(mask, self._lane, self._size)
        if self._implicit and self._half_faults(native):
            # The manual leaves open whether bytes that are not stored can fault; here they do.  As
            # on Intel's and AMD's processors, the x87 unit is in MMX state by then.
            if self._mmx:
                native.execute(self._enter_mmx)
            return False
        for (start, size), part in zip(lanes, self._parts, strict=False):
            if native.resolve_at(part, start, size, self._store) == FAULT:
                if native.conduct & Conduct.MASKED_MOVE_AS_ONE:
                    self._fault_as_one(native, lanes)
                else:
                    self._fault(native, start, size, self._lane)
                return False
        native.put(FIRST, bytes(self._size))
        if not self._store:
            for (start, _), part in zip(lanes, self._parts, strict=False):
                yield from read(native, part, FIRST + start)
        if self._implicit:
            done = native.execute(self._entry, RDI, native.bounce + FIRST)
        else:
            done = native.execute(self._entry)
        if not done:
            return False
        native.commit(self._length, RDI if self._implicit else -1)
        if self._store:
            for (start, _), part in zip(lanes, self._parts, strict=False):
                yield from write(native, part, FIRST + start)
        return True

    def _half_faults(self, native: Native) -> bool:
        """Whether an 8-byte half that MASKMOV accesses faults; the first one's exception is set."""
        halves = [*range(0, self._size, 8)]
        if native.conduct & Conduct.MASKMOV_HIGH_HALF_FIRST:
            halves.reverse()
        return any(self._fault(native, at, 8, 8) for at in halves)

    def _fault_as_one(self, native: Native, lanes: list[tuple[int, int]]) -> None:
        """Set the exception of a faulting masked move that is checked as a whole."""
        part = self._parts[0]
        starts = [at for start, size in lanes for at in range(start, start + size, self._lane)]
        for at in starts:
            linear = native.linear(self._operand, at)
            if not (is_canonical(linear) and is_canonical(linear + self._lane - 1 & ALL64)):
                native.resolve_at(part, at, self._lane, self._store)
                return
        if self._store and native.resolve_at(part, starts[0], 1, True) != FAULT:
            native.resolve_at(part, starts[-1] + self._lane - 1, 1, True)
            return
        for start, size in lanes:
            if self._fault(native, start, size, self._lane):
                return

    def _fault(self, native: Native, start: int, size: int, step: int) -> bool:
        """Whether a piece faults; the first one's exception is set, #PF before #GP."""
        for at in range(start, start + size, step):
            if native.resolve_at(self._parts[0], at, step, self._store) == FAULT:
                return True
        return False


def _load(native: Native, number: int) -> int:
    """Place code that loads a YMM register from the bounce area; return its address."""
    register = Register_(Register.YMM0 + number)
    memory = MemoryOperand(Register.NONE, displ=native.bounce + FIRST, displ_size=8)
    load = Instruction.create_reg_mem(Code.VEX_VMOVDQU_YMM_YMMM256, register, memory)
    return native.place(encode(load))


class Gather:
    """A gather: loads the lanes one by one from the lowest, and clears their masks (SDM 2C).

    A fault in one lane leaves the lower lanes loaded, so that the instruction can be restarted.
    The bits above the lanes are cleared at the end.  Vendors differ in the mask that a fault leaves
    (`Conduct.GATHER_SPREADS_MASK`).  If a lane has been loaded, the trap of a single step comes
    instead of the fault, with RF set.
    """

    __slots__ = (
        "_count", "_index", "_index_size", "_lane", "_length", "_load_mask", "_load_target",
        "_mask", "_operand", "_scale", "_target", "_valid", "_width",
    )  # fmt: skip

    def __init__(self, native: Native, instruction: Instruction) -> None:
        sizes = GATHERS[instruction.mnemonic]
        self._length = instruction.len
        self._lane = sizes.lane
        self._index_size = sizes.index
        self._scale = instruction.memory_index_scale
        self._operand = explicit_operand(instruction, sizes.lane, index=False, reads=True)
        registers = (
            instruction.op0_register, instruction.op2_register, instruction.memory_index,
        )  # fmt: skip
        self._target, self._mask, self._index = map(RegisterExt.number, registers)
        self._valid = len({self._target, self._mask, self._index}) == len(registers)
        widths = size_of(instruction.op0_register), size_of(instruction.memory_index)
        self._count = min(widths[0] // sizes.lane, widths[1] // sizes.index)
        self._width = max(widths)
        self._load_target = _load(native, self._target)
        self._load_mask = _load(native, self._mask)

    def run(self, native: Native) -> Accesses:
        if not self._valid:
            return native.raise_exception(_UD)
        lane, operand = self._lane, self._operand
        index = native.vector(self._index)
        size = self._count * lane
        target = bytearray(native.vector(self._target))
        mask = bytearray(native.vector(self._mask))
        done = True
        loaded = False
        for i in range(self._count):
            at = i * lane
            if mask[at + lane - 1] & 0x80:
                position = index[i * self._index_size : (i + 1) * self._index_size]
                offset = int.from_bytes(position, "little", signed=True) * self._scale
                if native.resolve_at(operand, offset, lane, False) == FAULT:
                    done = False
                    break
                yield from read(native, operand, FIRST)
                target[at : at + lane] = native.get(FIRST, lane)
                loaded = True
            mask[at : at + lane] = bytes(lane)
        if done:
            target[size:] = mask[size:] = bytes(len(mask) - size)
        elif native.conduct & Conduct.GATHER_SPREADS_MASK:
            width = self._width
            mask[:width] = spread(mask[:width], lane)
            mask[width:] = bytes(len(mask) - width)
            if loaded:
                target[width:] = bytes(len(target) - width)
        self._set(native, self._load_target, target)
        self._set(native, self._load_mask, mask)
        if done:
            native.skip(self._length)
        elif loaded and native.rflags & _TF:
            native.done(whole=False)
            native.step_trap()
        return done

    def _set(self, native: Native, load: int, value: bytearray) -> None:
        native.put(FIRST, bytes(value))
        native.execute(load)


class Xlat:
    """XLAT: AL := [rBX + AL]."""

    __slots__ = ("_length", "_operand")

    def __init__(self, native: Native, instruction: Instruction) -> None:
        memory = info_of(instruction).used_memory()[0]
        self._length = instruction.len
        self._operand = operand_of(instruction, memory, index=False)

    def run(self, native: Native) -> Accesses:
        operand = self._operand
        if native.resolve_at(operand, native.gpr(RAX) & 0xFF, 1, False) == FAULT:
            return False
        yield from read(native, operand, FIRST)
        native.set_gpr(RAX, native.peek(FIRST, 1), 1)
        native.skip(self._length)
        return True
