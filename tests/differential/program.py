"""A test program: its instructions, its initial state and memory, and its outcome."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property

from iced_x86 import Decoder, Encoder, Formatter, FormatterSyntax, Instruction, OpKind

from tests.differential import layout, xsave
from tests.differential.segments import SELECTOR, base_of

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
             "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
START_SELECTORS = (0, 0x33, 0x2B, 0, 0, 0)
SELECTORS_32 = (0x2B, 0x23, 0x2B, 0x2B, 0x2B, 0x2B)  # Linux's, all of them flat
SELECTORS_16 = tuple(
    SELECTOR[name] for name in ("data16", "code16", "stack16", "data16", "data16", "data16"))
START_SELECTORS_OF: dict[int, tuple[int, ...]] = {
    64: START_SELECTORS, 32: SELECTORS_32, 16: SELECTORS_16}
INT3 = b"\xcc"


@dataclass(frozen=True, slots=True)
class State:
    """The user-visible processor: registers in ModRM order, RFLAGS, FS and GS base, vectors."""

    gpr: tuple[int, ...] = (0,) * 16
    rip: int = layout.CODE.linear
    rflags: int = 0x202
    fs_base: int = 0
    gs_base: int = 0
    xsave: bytes = xsave.INIT
    selectors: tuple[int, ...] = START_SELECTORS


class Status(IntEnum):
    """How a run ended."""

    NOT_RUN = 0   # the runner died in it
    EVENT = 1     # an exception (the final INT3 is one)
    TIMEOUT = 2
    SHUTDOWN = 3  # a triple fault, or the runner could not go on


SYSCALL_VECTOR = 0x100  # not an exception: SYSCALL reached the kernel


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a program.

    `vector` is that of SDM 3A table 6-1; `pages` are the pages that differ from the base image.
    """

    status: Status
    vector: int = 0
    error: int = 0
    cr2: int = 0
    state: State = State()
    pages: Mapping[int, bytes] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One instruction: iced-x86's, or its raw bytes.

    `target` is the item that a branch goes to, or at which a RIP-relative or absolute operand or an
    immediate points, `delta` bytes into it.  A `tied` item makes the one before it comparable and
    is only removed with it.
    """

    instruction: Instruction | None = None
    raw: bytes = b""
    target: int | None = None
    delta: int = 0
    tied: bool = False


@dataclass(frozen=True)
class Program:
    """`items` at linear address `origin`, entered at the first, followed by INT3."""

    items: tuple[Item, ...]
    origin: int = layout.CODE.linear
    state: State = State()
    patches: tuple[tuple[int, bytes], ...] = ()  # (linear address, bytes) over the base image
    comment: str = field(default="", compare=False)
    bits: int = 64  # of its code

    @cached_property
    def _assembled(self) -> tuple[bytes, tuple[int, ...]]:
        return assemble(self.items, self.origin, self.bits, self.base)

    @property
    def base(self) -> int:
        """Linear address of offset 0 of the code segment."""
        return base_of(self.state.selectors[1])

    def place_of(self, rip: int) -> int:
        """Return how far from the program's first byte an instruction pointer is."""
        return rip + self.base - self.origin

    @property
    def code(self) -> bytes:
        """The program's bytes with its final INT3."""
        return self._assembled[0]

    @property
    def starts(self) -> tuple[int, ...]:
        """Linear address of each item, and of the final INT3."""
        return self._assembled[1]

    @property
    def memory(self) -> tuple[tuple[int, bytes], ...]:
        """All that is written over the base image, the code included (as much as has a page)."""
        area = layout.area_at(self.origin)
        room = area.end - self.origin if area else 0
        return (*self.patches, (self.origin, self.code[:room]))

    def initial_image(self) -> bytes:
        """Return the initial memory of the program."""
        image = bytearray(layout.BASE_IMAGE)
        for linear, data in self.memory:
            offset = layout.image_offset(linear)
            image[offset:offset + len(data)] = data
        return bytes(image)

    def without(self, index: int) -> Program:
        """The program less one item and those tied to it; branches to them go to the next."""
        end = index + 1
        while end < len(self.items) and self.items[end].tied:
            end += 1
        items = []
        for item in (*self.items[:index], *self.items[end:]):
            target = item.target
            if target is not None and target > index:
                target = max(index, target - (end - index))
            items.append(replace(item, target=target))
        return replace(self, items=tuple(items))

    def listing(self) -> list[str]:
        """Bytes and disassembly, one line an item."""
        lines = []
        formatter = Formatter(FormatterSyntax.NASM)
        for start, end in zip(self.starts, self.starts[1:], strict=False):
            data = self.code[start - self.origin:end - self.origin]
            decoder = Decoder(self.bits, data, ip=start - self.base)
            text = "; ".join(formatter.format(i) for i in decoder)
            lines.append(f"{start:x}  {data.hex(' '):<32} ; {text}")
        return lines


def code_at_the_end(program: Program, outcome: Outcome) -> bytes:
    """Return the program's bytes at its end, and some that follow."""
    code = bytearray(program.code + INT3 * 15)
    for i in range(len(code)):
        if layout.area_at(program.origin + i) is None:
            break
        page, offset = divmod(layout.image_offset(program.origin + i), layout.PAGE)
        if page in outcome.pages:
            code[i] = outcome.pages[page][offset]
    return bytes(code)


def instruction_at(program: Program, outcome: Outcome) -> Instruction | None:
    """Return the instruction at which a run stopped, as it was at the end."""
    start = program.place_of(outcome.state.rip)
    if not 0 <= start < len(program.code):
        return None
    return Decoder(program.bits, code_at_the_end(program, outcome)[start:],
                   ip=outcome.state.rip).decode()


def _aimed(ins: Instruction, target: int) -> Instruction:
    out = ins.copy()
    kinds = {ins.op_kind(i) for i in range(ins.op_count)}
    if OpKind.MEMORY in kinds:
        out.memory_displacement = target
    elif OpKind.IMMEDIATE32 in kinds:
        out.immediate32 = target
    elif OpKind.IMMEDIATE16 in kinds:
        out.immediate16 = target & 0xFFFF
    elif OpKind.FAR_BRANCH16 in kinds:
        out.far_branch16 = target & 0xFFFF
    elif OpKind.FAR_BRANCH32 in kinds:
        out.far_branch32 = target
    elif OpKind.NEAR_BRANCH16 in kinds:
        out.near_branch16 = target & 0xFFFF
    else:
        out.near_branch64 = target
    return out


def assemble(items: Sequence[Item], origin: int, bits: int = 64,
             base: int = 0) -> tuple[bytes, tuple[int, ...]]:
    """Encode items at `origin`: the bytes with the final INT3, and each one's linear address.

    Branches are relative to `base`, where the code segment begins.
    """
    encoder = Encoder(bits)
    starts = [origin]
    pieces: list[bytes] = []
    pending: list[int] = []
    for i, item in enumerate(items):
        if item.instruction is None:
            pieces.append(item.raw)
        else:
            ins = item.instruction
            if item.target is not None:
                pending.append(i)
                ins = _aimed(ins, starts[i] - base)
            encoder.encode(ins, starts[i] - base)
            pieces.append(encoder.take_buffer())
        starts.append(starts[i] + len(pieces[i]))
    for i in pending:
        item = items[i]
        assert item.instruction is not None and item.target is not None
        ins = _aimed(item.instruction, starts[item.target] + item.delta - base)
        encoder.encode(ins, starts[i] - base)
        pieces[i] = encoder.take_buffer()
    return b"".join(pieces) + INT3, tuple(starts)


def to_text(program: Program) -> str:
    """The corpus form: readable, and complete for `from_text`."""
    lines = [f"# {line}" for line in program.comment.splitlines()]
    if program.bits != 64:
        lines.append(f"bits {program.bits}")
    lines.append(f"origin {program.origin:#x}")
    lines += [f"  {line.split('  ', 1)[1]}" for line in program.listing()]
    state = program.state
    lines += [f"{n} = {v:#x}" for n, v in zip(REGISTERS, state.gpr, strict=True) if v]
    lines.append(f"rflags = {state.rflags:#x}")
    if state.selectors != START_SELECTORS_OF[program.bits]:
        lines.append("selectors " + " ".join(map(hex, state.selectors)))
    if program.place_of(state.rip):
        lines.append(f"rip = {state.rip:#x}")
    if state.fs_base:
        lines.append(f"fs_base = {state.fs_base:#x}")
    if state.gs_base:
        lines.append(f"gs_base = {state.gs_base:#x}")
    default = xsave.fields(xsave.canonical(xsave.INIT))
    lines += [f"{n} = {v}" for n, v in xsave.fields(xsave.canonical(state.xsave)).items()
              if v != default[n]]
    lines += [f"mem {linear:#x} = {data.hex()}" for linear, data in program.patches]
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Program:
    """Read `to_text`'s form; ValueError names the line that is wrong."""
    items: list[Item] = []
    comment: list[str] = []
    patches: list[tuple[int, bytes]] = []
    values: dict[str, str] = {}
    origin = layout.CODE.linear
    bits = 64
    selectors: tuple[int, ...] = START_SELECTORS
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if line.startswith("#"):
            comment.append(line[1:].strip())
        elif line.startswith(" "):
            items.append(Item(raw=bytes.fromhex(line.split(";")[0])))
        elif words[0] == "origin":
            origin = int(words[1], 0)
        elif words[0] == "bits":
            bits = int(words[1])
            selectors = START_SELECTORS_OF[bits]
        elif words[0] == "selectors":
            selectors = tuple(int(word, 0) for word in words[1:])
        elif words[0] == "mem" and words[2] == "=":
            patches.append((int(words[1], 0), bytes.fromhex(words[3])))
        elif len(words) == 3 and words[1] == "=":
            values[words[0]] = words[2]
        else:
            raise ValueError(f"line {number} is not understood: {line!r}")
    gpr = tuple(int(values.pop(n, "0"), 0) for n in REGISTERS)
    state = State(gpr=gpr, rip=int(values.pop("rip", str(origin - base_of(selectors[1]))), 0),
                  rflags=int(values.pop("rflags", "0x202"), 0),
                  fs_base=int(values.pop("fs_base", "0"), 0),
                  gs_base=int(values.pop("gs_base", "0"), 0), selectors=selectors,
                  xsave=xsave.from_fields(values))
    return Program(tuple(items), origin, state, tuple(patches), "\n".join(comment), bits)
