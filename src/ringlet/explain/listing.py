"""Makes listings: guest instructions, fragment by fragment, each with its host code.

A listing is data; `ringlet.explain.render` turns it into text.  The translator's relocations
identify host operands: fields of the state block by name, tables, stubs, links.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, NamedTuple

from iced_x86 import Code, Decoder, Formatter, FormatterSyntax, Instruction, OpKind

from ringlet.core import state
from ringlet.core.ops import Op
from ringlet.explain import source
from ringlet.explain.real_mode import REASONS
from ringlet.translate.classify import Refused, Ruled, classify
from ringlet.translate.translator import (
    BLOCK,
    KEYS,
    NEGATED_SLOTS,
    SLOTS,
    TABLE_BYTES,
    Relocation,
    Stub,
    Translation,
    Translator,
)
from ringlet.vcpu.fields import ARCH_FIELDS

_PAGE: Final = 4096
_LONGEST: Final = 15
_MASK: Final = (1 << 64) - 1
_MODES: Final = {16: "mode16", 32: "mode32", 64: "mode64"}
_OF_DEVICES: Final = frozenset({Op.OP_DEVICE_READ, Op.OP_DEVICE_WRITE})
_REGISTERS: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")
_HELD: Final = {"selector": 0, "at": 4, "low": 8, "high": 12}
_REMEMBERED: Final = {
    "selector": 0, "limit": 8, "base": 16, "host": 24,
    **{f"held.{piece}": 32 + at for piece, at in _HELD.items()},
}  # fmt: skip


class Kind(Enum):
    """The way in which the virtual processor handles a guest instruction."""

    INNOCUOUS = "innocuous"  # runs on the host with adapted registers and operands
    INLINED = "inlined"  # sensitive, replaced by code in place
    IGNORED = "ignored"  # sensitive, has no effect on the virtual processor
    LEAVES = "leaves"  # sensitive, leaves translated code for its operation
    DEVICE = "device"  # innocuous, leaves for an access because it has met a device
    REFUSED = "refused"  # the virtual processor has no such instruction
    EMULATED = "emulated"  # innocuous, in a form too rare for translated code


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host instruction at byte `offset` of the translation; a jump's target has a `label`."""

    offset: int
    data: bytes
    text: str
    label: str = ""
    same: bool = False  # the guest's instruction, byte for byte and alone


@dataclass(frozen=True, slots=True)
class GuestLine:
    """A guest instruction and the in-line part of its translation."""

    linear: int
    data: bytes
    text: str
    kind: Kind
    operation: str  # the Op that is performed for it, or ""
    reason: str
    manual: str
    host: tuple[HostLine, ...]


@dataclass(frozen=True, slots=True)
class Cold:
    """Out-of-line code that belongs to the guest instruction at `linear`."""

    linear: int
    host: tuple[HostLine, ...]


@dataclass(frozen=True, slots=True)
class FragmentListing:
    """One translated fragment.

    `thunk` is its entry for indirect jumps, `end` the code after its last instruction.  `again` is
    the second copy of a loop's instructions, for its later passes, and `again_end` the code after
    that copy.  `cold` is the code for missed predictions.
    """

    linear: int
    guest_bytes: int
    host_bytes: int
    thunk: tuple[HostLine, ...]
    guest: tuple[GuestLine, ...]
    end: tuple[HostLine, ...]
    again: tuple[GuestLine, ...]
    again_end: tuple[HostLine, ...]
    cold: tuple[Cold, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """The listing of a range; `rest` holds the bytes of an incomplete instruction at its end."""

    name: str
    bits: int
    cpl: int
    fragments: tuple[FragmentListing, ...]
    rest: bytes


def explain(
    code: source.Code,
    cpl: int = 0,
    speculate: bool = True,
    thunk: bool = False,
    flags: int = 0,
    devices: bool = False,
    bits: int = 64,
) -> Listing:
    """Translate `code` fragment by fragment for ring `cpl`, and list the result.

    `bits` is the size of the code segment; CS has its base at 0.  `flags` are more KEY_* bits of
    the mode key, such as `segments_key` returns.  With `devices`, each MOV to or from memory has
    met a device.  Fragments end at page boundaries; an instruction that crosses into the next page
    is a fragment of its own.
    """

    def translated(data: bytes, limit: int) -> Translation | None:
        return _translate(translator, data, linear, key, limit, thunk, devices)

    translator = Translator(speculate=speculate)
    key = KEYS[_MODES[bits]] | cpl | flags
    fragments = []
    at = 0
    while at < len(code.data):
        linear = (code.linear + at) & _MASK
        room = _PAGE - (linear & (_PAGE - 1))
        translation = translated(code.data[at : at + room], 0)
        if translation is None and room < _LONGEST:
            translation = translated(code.data[at : at + _LONGEST], 1)
        if translation is None:
            break
        guest = code.data[at : at + translation.guest_bytes]
        paragraphs = bool(flags & KEYS["paragraphs"])
        lister = _Lister(translation, guest, cpl, bits, paragraphs=paragraphs)
        fragments.append(lister.fragment())
        at += translation.guest_bytes
    return Listing(code.name, bits, cpl, tuple(fragments), code.data[at:])


def segments_key(bits: int, *, segmented: bool) -> int:
    """Return the KEY_* bits of code whose DS, ES and SS are flat, or not if `segmented`.

    16-bit code has SP and 64 KiB in each segment then, as in real mode.
    """
    if not segmented or bits == 64:
        return 0
    names = ("stack16", "cs64k", "data64k", "paragraphs") if bits == 16 else ()
    return sum((KEYS[name] for name in names), KEYS["segmented"])


def _translate(
    translator: Translator,
    data: bytes,
    linear: int,
    key: int,
    limit: int,
    thunk: bool,
    devices: bool,
) -> Translation | None:
    """Return the fragment at the start of `data`; None if its first instruction is cut off."""
    try:
        made = translator.translate(
            data, linear=linear, key=key, limit=limit, indirect=thunk, devices=devices
        )
    except ValueError:
        return None
    # An invalid instruction counts as 15 bytes, of which fewer may be present.
    return made if made.guest_bytes <= len(data) else None


def new_formatter() -> Formatter:
    """Return the formatter of all listings, which uses Intel's syntax."""
    formatter = Formatter(FormatterSyntax.INTEL)
    formatter.hex_prefix = "0x"
    formatter.hex_suffix = ""
    formatter.uppercase_hex = False
    formatter.space_after_operand_separator = True
    formatter.space_between_memory_add_operators = True
    formatter.branch_leading_zeros = False
    formatter.small_hex_numbers_in_decimal = True
    formatter.rip_relative_addresses = False
    return formatter


class _Part(NamedTuple):
    """Host offsets `begin` to `end`, which hold the code of the guest instruction at `guest`."""

    guest: int
    begin: int
    end: int


class _Lister:
    """Makes one fragment's listing."""

    def __init__(
        self, translation: Translation, guest: bytes, cpl: int, bits: int, *, paragraphs: bool
    ) -> None:
        self._t = translation
        self._paragraphs = paragraphs
        self._bits = bits
        self._guest = guest
        self._user = int(cpl == 3)
        self._formatter = new_formatter()
        self._fields = {at: (kind, value) for at, kind, value in translation.relocations}
        self._links = dict(translation.links)
        self._labels: dict[int, str] = {}
        self._branches: dict[int, int] = {}

    def fragment(self) -> FragmentListing:
        t = self._t
        host = self._host()
        parts = self._parts()
        again = next((n for n, part in enumerate(parts) if n and part.guest == 0), len(parts))
        first, end = self._lines(host, parts[:again], t.guest_bytes)
        copy, copy_end = self._lines(host, parts[again:], self._behind_loop(parts[:again], parts))
        return FragmentListing(
            t.linear,
            t.guest_bytes,
            len(t.code),
            tuple(line for line in host if line.offset < t.body),
            first,
            end,
            copy,
            copy_end,
            tuple(self._cold(host)),
        )

    def _parts(self) -> list[_Part]:
        """Return the in-line code by guest instruction; a loop's copy begins at 0 again."""
        marks: list[tuple[int, int]] = []
        for host, guest in self._t.map:
            if self._t.body <= host < self._t.cold and (not marks or marks[-1][1] != guest):
                marks.append((host, guest))
        ends = [host for host, _ in marks[1:]] + [self._t.cold]
        return [_Part(guest, host, end) for (host, guest), end in zip(marks, ends, strict=True)]

    def _behind_loop(self, first: list[_Part], parts: list[_Part]) -> int:
        """Return the guest offset after the branch that leads to the loop's copy."""
        if len(first) == len(parts):
            return 0
        head = parts[len(first)].begin
        sources = [at for at, target in self._branches.items() if target == head]
        after = [part.guest for part in parts if part.begin > min(sources)]
        return after[0] or self._t.guest_bytes

    def _lines(
        self, host: list[HostLine], parts: list[_Part], behind: int
    ) -> tuple[tuple[GuestLine, ...], tuple[HostLine, ...]]:
        """Return the instructions before guest offset `behind`, and the code after them."""
        # An indirect branch may have an entry in `operations` that performs no operation.
        operations = {at: op for at, op in self._t.operations if op != Op.OP_NONE}
        decoder = Decoder(self._bits, self._guest)
        lines = []
        rest: list[HostLine] = []
        for part in parts:
            code = [line for line in host if part.begin <= line.offset < part.end]
            if part.guest >= behind:
                rest += code
                continue
            decoder.position, decoder.ip = part.guest, (self._t.linear + part.guest) & _MASK
            instruction = decoder.decode()
            data = self._guest[part.guest : part.guest + self._length(instruction)]
            op = operations.get(part.guest)
            lines.append(self._guest_line(instruction, data, op, _marked(code, data)))
        return tuple(lines), tuple(rest)

    def _length(self, instruction: Instruction) -> int:
        return instruction.len if instruction.code != Code.INVALID else _LONGEST

    def _cold(self, host: list[HostLine]) -> Iterator[Cold]:
        marks = [(h, g) for h, g in self._t.map if h >= self._t.cold]
        marks = [(h, g) for h, g in marks if g < self._t.guest_bytes]
        for index, (begin, guest) in enumerate(marks):
            end = marks[index + 1][0] if index + 1 < len(marks) else len(self._t.code)
            lines = tuple(line for line in host if begin <= line.offset < end)
            yield Cold((self._t.linear + guest) & _MASK, lines)

    def _guest_line(
        self, instruction: Instruction, data: bytes, op: int | None, host: tuple[HostLine, ...]
    ) -> GuestLine:
        kind, reason, manual = Kind.INNOCUOUS, "", ""
        match classify(instruction.code, self._bits):
            case _ if op in _OF_DEVICES:
                kind, reason = Kind.DEVICE, "It has met a device."
            case Ruled(rule) if op is None and rule.op == Op.OP_EMULATE and self._bits != 64:
                pass  # it has another encoding, which the host knows
            case Ruled(rule):
                kind, reason, manual = Kind.LEAVES, rule.reason, rule.manual
                if self._paragraphs and rule.op in REASONS:
                    reason, manual = REASONS[Op(rule.op)]
                if op is None:
                    kind = Kind.INLINED if host else Kind.IGNORED
            case Refused(why):
                kind, reason = Kind.REFUSED, f"#UD: {why}."
            case _ if op == Op.OP_EMULATE:
                kind, reason = Kind.EMULATED, "This form is too rare for translated code."
            case _ if op is not None:
                kind, reason = Kind.LEAVES, "The guest has switched this unit off."
                manual = "vol. 3A 2.5"
        invalid = instruction.code == Code.INVALID
        text = "(no instruction)" if invalid else self._formatter.format(instruction)
        operation = "" if op is None else Op(op).name
        return GuestLine(instruction.ip, data, text, kind, operation, reason, manual, host)

    # --- host code

    def _host(self) -> list[HostLine]:
        code = self._t.code
        decoder = Decoder(64, code)
        decoded = []
        for instruction in decoder:
            offsets = decoder.get_constant_offsets(instruction)
            fields = [
                instruction.ip + at
                for at, size in (
                    (offsets.displacement_offset, offsets.displacement_size),
                    (offsets.immediate_offset, offsets.immediate_size),
                )
                if size
            ]
            decoded.append((instruction, fields))
        self._name_targets([instruction for instruction, _ in decoded])
        return [
            HostLine(
                i.ip, code[i.ip : i.next_ip], self._text(i, fields), self._labels.get(i.ip, "")
            )
            for i, fields in decoded
        ]

    def _name_targets(self, instructions: list[Instruction]) -> None:
        for i in instructions:
            if i.op_count and i.op0_kind == OpKind.NEAR_BRANCH64 and not self._field_of_branch(i):
                self._branches[i.ip] = i.near_branch_target
        counts = dict.fromkeys(("miss", "found", "again", "skip"), 0)
        for target in sorted(set(self._branches.values())):
            sources = [at for at, to in self._branches.items() if to == target]
            if target >= self._t.cold:
                name = "miss"
            elif max(sources) >= self._t.cold:
                name = "found"
            else:
                name = "again" if max(sources) >= target else "skip"
            counts[name] += 1
            self._labels[target] = f"{name}{counts[name]}"

    def _field_of_branch(self, instruction: Instruction) -> str:
        at = instruction.next_ip - 4
        # A link that leads into the translation closes a loop.
        if at in self._links and instruction.near_branch_target == instruction.next_ip:
            return f"-> {self._links[at] & _MASK:#x} (link)"
        if at in self._fields and self._fields[at][0] == Relocation.STUB:
            return f"stub.{Stub(self._fields[at][1]).name.lower()}"
        return ""

    def _text(self, instruction: Instruction, fields: list[int]) -> str:
        if instruction.op_count and instruction.op0_kind == OpKind.NEAR_BRANCH64:
            target = self._field_of_branch(instruction)
            target = target or self._labels[instruction.near_branch_target]
            return f"{self._formatter.format_mnemonic(instruction)} {target}"
        text: str = self._formatter.format(instruction)
        for at in fields:
            if at in self._fields:
                kind, value = self._fields[at]
                raw = int.from_bytes(self._t.code[at : at + 4], "little")
                text = self._named(text, kind, value, raw, instruction)
        return text

    def _named(self, text: str, kind: int, value: int, raw: int, instruction: Instruction) -> str:
        address = (self._t.linear + value) & _MASK
        match kind:
            case Relocation.STATE:
                return text.replace(f"{raw:#x}", self._state_name(value))
            case Relocation.TABLE:
                return text.replace(f"{raw:#x}", "jumps")
            case Relocation.PREDICTED:
                return text.replace(f"{raw:#x}", "misses" if value >> 16 else "predicted")
            case Relocation.SLOT:
                return text.replace("[0]", f"[slot of {address:#x}]")
            case Relocation.RIP32 if instruction.memory_displacement:
                shown = instruction.memory_displacement
                for sign, number in (("- ", -shown & _MASK), ("+ ", shown)):
                    text = text.replace(f"{sign}{number:#x}]", f"+ {address:#x}]")
                return text
            case Relocation.OP:
                op = Op(self._t.operations[value][1])
                return text.rpartition(" ")[0] + f" {op.name}"
            case Relocation.NRIP64:
                return text.rpartition(" ")[0] + f" -{address:#x}"
            case Relocation.NRIP32:
                return text.partition("[")[0] + f"[r8 - {address:#x}]"
            case _:
                return text

    def _state_name(self, offset: int) -> str:
        for name, tables in (("slots", SLOTS), ("-slots", NEGATED_SLOTS)):
            index, odd = divmod(offset - tables[self._user], 8)
            if 0 <= index < TABLE_BYTES // 8 and not odd:
                return name if index == 0 else f"{name} + {index * 8:#x}"
        fields = _state_fields()
        return f"state.{fields[offset]}" if offset in fields else f"state + {offset:#x}"


def _marked(lines: list[HostLine], data: bytes) -> tuple[HostLine, ...]:
    """Return the host code of an instruction, marked if it equals the guest instruction."""
    if len(lines) == 1 and lines[0].data == data:
        return (replace(lines[0], same=True),)
    return tuple(lines)


def _pieces(first: int, name: str, pieces: dict[str, int]) -> dict[int, str]:
    return {first + at: f"{name}.{piece}" for piece, at in pieces.items()}


def _state_fields() -> dict[int, str]:
    named = {offset: name for name, offset in state.offsets().items() if name != "size"}
    gpr, scratch = state.offsets()["gpr"], state.offsets()["scratch"]
    named.update({gpr + 8 * i: name for i, name in enumerate(_REGISTERS)})
    named.update({scratch + 8 * i: f"scratch{i}" for i in range(4)})
    for name in _SEGMENTS:
        for field in (f"{name}.selector", f"{name}.limit", f"{name}.base"):
            named.setdefault(ARCH_FIELDS[field][0], field)
    named[ARCH_FIELDS["es.selector"][0]] = "es.selector"  # the first of "selectors"
    for field in ("segment_host", "segment_at", "segment_read", "segment_write", "paragraph_at"):
        first = state.offsets()[field]
        named.update({first + 8 * i: f"{field}.{name}" for i, name in enumerate(_SEGMENTS)})
    for number, name in enumerate(_SEGMENTS):
        named.update(_pieces(state.offsets()["held"] + 16 * number, f"held.{name}", _HELD))
    for number, name in enumerate(("fs.0", "fs.1", "gs.0", "gs.1")):
        first = state.offsets()["remembered"] + 48 * number
        named.update(_pieces(first, f"remembered.{name}", _REMEMBERED))
    old = state.offsets()["string_old"]
    named.update({old: "string_old.rsi", old + 8: "string_old.rdi"})
    return named


assert BLOCK < 1 << 31
