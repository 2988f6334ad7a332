"""A shape holds for all instructions with its key: enumerated, random, and from real text."""

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from iced_x86 import (
    Code,
    Code_,
    Decoder,
    DecoderOptions,
    EncodingKind,
    Instruction,
    InstructionInfoFactory,
    OpAccess,
    OpAccess_,
    OpCodeInfo,
    Register_,
    RegisterExt,
    RflagsBits,
)
from tests.unit.translate.enumeration import Comparison, legacy, vex
from tests.unit.translate.reference import Shapes, length_of

from ringlet.translate.classify import Refused, classify
from ringlet.translate.key import (
    GROUP_MODRM,
    GROUP_REG,
    GROUP_RM,
    Parsed,
    group_index,
    opcode_groups,
    parse,
)
from ringlet.translate.learn import Shape
from ringlet.translate.rules.registry import CODE_NAMES
from ringlet.translate.shape import RegRole

READS = {OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
WRITES = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
FLAG_BITS = (
    (RflagsBits.CF, 0), (RflagsBits.PF, 2), (RflagsBits.AF, 4), (RflagsBits.ZF, 6),
    (RflagsBits.SF, 7), (RflagsBits.DF, 10), (RflagsBits.OF, 11),
)  # fmt: skip
ROOT = Path("/usr/lib/x86_64-linux-gnu")
BINARIES = [
    path
    for path in (
        Path("/bin/bash"),
        ROOT / "libc.so.6",
        ROOT / "libm.so.6",
        ROOT / "libcrypto.so.3",
        ROOT / "libstdc++.so.6",
    )
    if path.exists()
]
FACTORY = InstructionInfoFactory()


@pytest.fixture(scope="module", params=[16, 32, 64])
def comparison(request: pytest.FixtureRequest) -> Comparison:
    result = Comparison(request.param)
    for source in (legacy, vex):
        for code in source(result.mode):
            result.compare(code)
    return result


def without_counter(name: str) -> str:
    """LOOP and JrCXZ count in CX, ECX or RCX depending on 67h, which the decoder handles."""
    return re.sub(r"_[ER]?CX$|(?<=^J)[ER](?=CXZ)", "", name)


def expected(what: str, actual: str, learned: str) -> bool:
    """Whether a key leaves this to the decoder (67h), the operation (CR9) or the host (#UD)."""
    if what == "differs":
        xchg = (actual, learned[:5]) == ("PAUSE", "XCHG_")
        return xchg or without_counter(actual) == without_counter(learned)
    numbered = re.fullmatch("VEX_.*|MOV_R64_[CD]R|MOV_[CD]R_R64", learned)
    return (what, actual, bool(numbered)) == ("exists", "INVALID", True)


def test_equal_keys_mean_the_same_instruction(comparison: Comparison) -> None:
    unexpected = {d: n for d, n in comparison.disagreements.items() if not expected(*d)}

    assert unexpected == {}
    assert len(comparison.shapes) > 30_000


def test_the_enumeration_meets_every_instruction(comparison: Comparison) -> None:
    infos = [OpCodeInfo(Code_(code)) for code in CODE_NAMES]
    wanted = {
        without_counter(CODE_NAMES[info.code])
        for info in infos
        if getattr(info, f"intel_decoder{comparison.mode}")
        and info.encoding in (EncodingKind.LEGACY, EncodingKind.VEX)
        and info.decoder_option == DecoderOptions.NONE
        and not info.fwait
        and not isinstance(classify(info.code, comparison.mode), Refused)
    }

    missed = wanted - {without_counter(CODE_NAMES[code]) for code in comparison.seen}

    # 16-bit addresses have no vector index.
    assert {name for name in missed if "GATHER" not in name or comparison.mode > 16} == set()


def test_keys_pack_into_24_bits_without_collision(comparison: Comparison) -> None:
    packed = {key.pack() for key in comparison.shapes}

    assert len(packed) == len(comparison.shapes)
    assert max(packed) < 1 << 24


# --- random operands


def drawn(seed: int, count: int) -> Iterator[bytes]:
    """Yield enumerated 64-bit instructions whose registers and immediates are random."""
    rng = random.Random(seed)
    groups = opcode_groups(64)
    everything = [code for source in (legacy, vex) for code in source(64)]
    for code in rng.choices(everything, k=count):
        parsed = parse(code, 64)
        if parsed is None:
            continue
        out = bytearray(code[: parsed.after_opcode]) + rng.randbytes(12)
        key = parsed.key
        group = groups[group_index(key.vex, key.map, key.opcode)]
        if group & GROUP_MODRM:
            kept = 0xC0 | 0x38 * bool(group & GROUP_REG) | 7 * bool(group & GROUP_RM)
            modrm = code[parsed.after_opcode] & kept
            out[parsed.after_opcode] = modrm | rng.randrange(256) & ~kept
        if key.vex:
            out[1] ^= rng.choice((0, 0x20, 0x40, 0x80, 0xE0))
            out[2] ^= rng.choice((0, 0x08, 0x28, 0x78))
        elif parsed.rex:
            length = (1, 2, 3, 3)[key.map]
            out[parsed.after_opcode - length - 1] ^= rng.randrange(8)
        yield bytes(out)


def mask(register: Register_) -> int:
    if not RegisterExt.is_gpr(register):
        return 0
    return 1 << RegisterExt.number(RegisterExt.full_register(register))


def flags(bits: int) -> int:
    return sum(1 << position for iced, position in FLAG_BITS if bits & iced)


def field_mask(code: bytes, parsed: Parsed, shape: Shape, use: RegRole) -> int:
    """Return the registers that fields of `code` name and that the shape marks with `use`."""
    modrm = code[parsed.after_opcode]
    opcode = parsed.key.opcode
    vvvv = code[2] >> 3 & 15 ^ 15 if parsed.key.vex else 0
    before_opcode = parsed.after_opcode - (1, 2, 3, 3)[parsed.key.map] - 1
    has_rex = not parsed.key.vex and code[max(before_opcode, 0)] >> 4 == 4
    numbers = (
        (shape.reg, modrm >> 3 & 7 | parsed.rex << 1 & 8),
        (shape.rm, modrm & 7 | parsed.rex << 3 & 8),
        (shape.vvvv, vvvv),
        (shape.opreg, opcode & 7 | parsed.rex << 3 & 8),
    )
    result = 0
    for role, number in numbers:
        if role & use:
            high = role & 7 == RegRole.ROLE_8 and not has_rex and 4 <= number < 8
            result |= 1 << (number & 3 if high else number)
    return result


def used(instruction: Instruction, accesses: set[OpAccess_]) -> int:
    result = 0
    for register in FACTORY.info(instruction).used_registers():
        if register.access in accesses:
            result |= mask(register.register)
    return result


def test_shapes_cover_what_instructions_with_chance_operands_do() -> None:
    shapes = Shapes()
    checked = 0
    for code in drawn(seed=1, count=60_000):
        instruction = Decoder(64, code).decode()
        parsed = parse(code, 64)
        if parsed is None or instruction.code == Code.INVALID:
            continue
        shape = shapes[parsed.key]
        if shape.code16 != instruction.code or isinstance(classify(shape.code16), Refused):
            continue
        address = mask(instruction.memory_base) | mask(instruction.memory_index)
        reads = shape.implicit_read | field_mask(code, parsed, shape, RegRole.ROLE_READ) | address
        writes = shape.implicit_write | field_mask(code, parsed, shape, RegRole.ROLE_WRITE)

        where = f"{code.hex()} {instruction}"
        assert used(instruction, READS) & ~reads == 0, where
        assert used(instruction, WRITES) & ~writes == 0, where
        assert flags(instruction.rflags_read) & ~shape.flags_read == 0, where
        assert flags(instruction.rflags_modified) & ~shape.flags_write == 0, where
        assert shape.flags_kill & ~flags(instruction.rflags_modified) == 0, where
        checked += 1

    assert checked > 15_000


# --- programs


def text_of(path: Path) -> bytes:
    """Return the .text section of a 64-bit ELF file."""
    data = path.read_bytes()
    (headers,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<3H", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, headers + n * size) for n in range(count)]
    names = sections[names_index][4]
    wanted = [s for s in sections if data[names + s[0] :].startswith(b".text\0")]
    return data[wanted[0][4] : wanted[0][4] + wanted[0][5]]


@pytest.mark.parametrize("path", BINARIES, ids=lambda path: path.name)
def test_lengths_agree_on_the_text_of_programs(path: Path) -> None:
    text = text_of(path)[:600_000]
    shapes = Shapes()
    decoder = Decoder(64, text)
    count = 0

    for instruction in decoder:
        start = instruction.ip
        code = text[start : start + 15]
        # The length of an undefined instruction does not matter: it raises #UD, or it is data.
        if isinstance(classify(instruction.code), Refused):
            continue
        assert length_of(code, 64, shapes) == instruction.len, f"{code.hex()} {instruction}"
        count += 1

    print(f"{path.name}: {count} instructions, {len(shapes)} shapes")
    assert count > 50_000
