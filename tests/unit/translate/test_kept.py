"""Kept translations are found wherever they are valid, and nowhere else."""

import random

import pytest
from iced_x86 import Decoder, OpKind

from ringlet.bench.kernel import kernel_text
from ringlet.config import PAGE_SIZE
from ringlet.images.debian import CLOUD_KERNEL, kernels_of
from ringlet.images.store import Store, default_root
from ringlet.translate.translator import KEYS, Translator

KERNEL = 0xFFFFFFFF_81000000
MOVED = 0xFFFFFFFF_9A600000
USER = 0x5555_5555_5000
MODE = KEYS["mode64"]
KERNEL_EVERY = 61
RECORD_CHECKED = 54
"""Offset of `checked` in a record."""


def page(code: bytes, at: int = 0x100) -> bytes:
    """Return a page of `int3` with `code` at offset `at`."""
    return (b"\xcc" * at + code).ljust(PAGE_SIZE, b"\xcc")


def asked(translator: Translator, data: bytes, at: int = 0x100, linear: int = KERNEL) -> bool:
    """Translate, compare with a new translator's output, and return whether it was kept."""
    before = translator.kept.found
    found = translator.translate_in(data, at, linear, MODE, True)
    assert found == Translator().translate_in(data, at, linear, MODE, True)
    return translator.kept.found == before + 1


@pytest.fixture
def translator() -> Translator:
    return Translator()


ADD = bytes.fromhex("4801d8 488b07 c3")  # add rax, rbx; mov rax, [rdi]; ret


def test_same_bytes_at_the_same_place_are_found(translator: Translator) -> None:
    assert not asked(translator, page(ADD))
    assert asked(translator, page(ADD))


@pytest.mark.parametrize(
    ("made_at", "linear"),
    [(KERNEL, MOVED), (KERNEL, 0), (KERNEL, 0x7FFF_F000), (USER, 0x8000_0000)],
)
def test_the_address_of_the_page_does_not_matter(
    translator: Translator, made_at: int, linear: int
) -> None:
    asked(translator, page(ADD), linear=made_at)
    assert asked(translator, page(ADD), linear=linear)


@pytest.mark.parametrize(
    ("made_at", "linear"),
    [(KERNEL, USER), (USER, KERNEL), (KERNEL, 0x8000_0000), (KERNEL, 0xFFFFFFFF_80000000)],
)
def test_an_entry_serves_addresses_of_its_size(
    translator: Translator, made_at: int, linear: int
) -> None:
    asked(translator, page(ADD, 0), 0, made_at)
    assert not asked(translator, page(ADD, 0), 0, linear)


def test_the_place_in_the_page_does(translator: Translator) -> None:
    asked(translator, page(ADD, 0x100), 0x100)
    assert not asked(translator, page(ADD, 0x101), 0x101)


def test_the_mode_does(translator: Translator) -> None:
    user = MODE | 3 * KEYS["cpl"]
    translator.translate_in(page(ADD), 0x100, KERNEL, MODE)
    translator.translate_in(page(ADD), 0x100, KERNEL, user)
    assert translator.kept.found == 0


def test_one_with_an_entry_serves_where_none_is_needed(translator: Translator) -> None:
    translator.translate_in(page(ADD), 0x100, KERNEL, MODE, True)
    translator.translate_in(page(ADD), 0x100, KERNEL, MODE, False)
    translator.translate_in(page(ADD), 0x100, KERNEL, MODE, True)
    assert (translator.kept.added, translator.kept.found) == (1, 2)


def test_every_byte_it_was_made_from_counts(translator: Translator) -> None:
    asked(translator, page(ADD))
    for i in range(len(ADD)):
        changed = bytearray(ADD)
        changed[i] ^= 1
        assert not asked(translator, page(bytes(changed))), i


def test_flags_that_are_read_beyond_it_count(translator: Translator) -> None:
    # add rax, rbx; jmp +10h, and there: cmp, which kills the flags, or jz, which reads them.
    jump = bytes.fromhex("4801d8 eb10")
    kills = jump + bytes(16) + bytes.fromhex("4839d8 c3")
    reads = jump + bytes(16) + bytes.fromhex("7402 c3 c3")
    asked(translator, page(kills))

    assert not asked(translator, page(reads))
    assert asked(translator, page(kills))


def test_operands_of_what_is_only_looked_at_do_not(translator: Translator) -> None:
    def code(value: int) -> bytes:
        compare = b"\x3d" + value.to_bytes(4, "little")  # cmp eax, value
        return bytes.fromhex("4801d8 eb10") + bytes(16) + compare + b"\xc3"

    asked(translator, page(code(1)))
    assert asked(translator, page(code(0x12345678)))


def test_a_cut_instruction_at_the_end_of_the_page_counts(translator: Translator) -> None:
    at = PAGE_SIZE - 5
    first = page(bytes.fromhex("4801d8 48b8"), at)  # add rax, rbx; the start of mov rax, imm64
    other = page(bytes.fromhex("4801d8 48c7"), at)
    asked(translator, first, at)

    assert not asked(translator, other, at)
    assert asked(translator, first, at)


ADDRESSES = {
    "immediate": "48c7c7 {}",  # mov rdi, imm32
    "immediate, zero-extended": "bf {}",
    "immediate of r9": "41b9 {}",
    "immediate to memory": "48c70424 {}",
    "immediate to memory through a register": "48c707 {}",
    "push": "68 {}",
    "compare": "483d {}",
    "displacement": "488b0425 {}",  # mov rax, [disp32]
    "displacement and an index": "488b04c5 {}",
    "displacement, base and index": "488b84c7 {}",
    "displacement of a base": "488b87 {}",
    "displacement and r8": "4d8b80 {}",
    "lea": "488d8f {}",
    "lea of r9": "4d8d89 {}",
    "lea of rsp": "488d8424 {}",
    "displacement and an immediate": "48c787 {} {}",
}


@pytest.mark.parametrize("form", ADDRESSES.values(), ids=ADDRESSES)
def test_addresses_of_a_kernel_that_moved_do_not_count(translator: Translator, form: str) -> None:
    def code(value: int) -> bytes:
        return bytes.fromhex(form.replace("{}", value.to_bytes(4, "little").hex()) + "90c3")

    assert not asked(translator, page(code(0x81234567)))
    assert asked(translator, page(code(0x9A834567)), linear=MOVED)
    assert asked(translator, page(code(0xEFFFFFFF)))


@pytest.mark.parametrize("form", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("value", [0, 0x7F, 0x12345678, 0x7FFFFFFF, 0xF0000000, 0xFFFFFFFF])
def test_other_values_in_their_place_do(translator: Translator, form: str, value: int) -> None:
    def code(value: int) -> bytes:
        return bytes.fromhex(form.replace("{}", value.to_bytes(4, "little").hex()) + "90c3")

    asked(translator, page(code(0x81234567)))
    assert not asked(translator, page(code(value)))


def test_per_processor_data_of_a_kernel_that_moved_does_not_count(translator: Translator) -> None:
    def code(displacement: int) -> bytes:  # inc dword gs:[rip + displacement]
        return bytes.fromhex("65ff05") + displacement.to_bytes(4, "little") + b"\xc3"

    asked(translator, page(code(0x7EABCDEF)))
    assert asked(translator, page(code(0x65ABCDEF)), linear=MOVED)


def test_immediate_of_an_emulated_instruction_counts(translator: Translator) -> None:
    def code(value: int) -> bytes:  # wrfsbase-like: mov to a segment's limit is emulated whole
        return bytes.fromhex("0f0187") + value.to_bytes(4, "little") + b"\xc3"  # sgdt [rdi + v]

    asked(translator, page(code(0x81234567)))
    assert not asked(translator, page(code(0x9A834567)))


def test_what_was_kept_serves_another_translator(translator: Translator) -> None:
    asked(translator, page(ADD))
    later = Translator()
    later.kept.load(translator.kept.dump())

    assert asked(later, page(ADD))
    assert later.kept.added == 0
    assert later.shapes == translator.shapes


@pytest.mark.parametrize("cut", [0, 3, 8, 40, -1])
def test_what_is_cut_off_is_refused(translator: Translator, cut: int) -> None:
    asked(translator, page(ADD))
    data = translator.kept.dump()

    with pytest.raises(ValueError, match="no "):
        Translator().kept.load(data[:cut])


def test_hostile_contents_are_refused_or_harmless(translator: Translator) -> None:
    codes = (ADD, bytes.fromhex("0fa2 c3"), bytes.fromhex("488d0510000000 7402 c3"))
    for i, code in enumerate(codes):
        asked(translator, page(code, 0x40 * i), 0x40 * i)
    data = translator.kept.dump()
    rng = random.Random(7)
    refused = 0
    for _ in range(3000):
        bad = bytearray(data)
        for _ in range(rng.choice((1, 1, 4))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        other = Translator()
        try:
            other.kept.load(bytes(bad))
        except ValueError:
            refused += 1
            continue
        other.kept.dump()
    assert 100 < refused < 3000


def test_checked_fragment_of_more_bytes_than_are_copied_is_refused(translator: Translator) -> None:
    asked(translator, page(b"\x48\x89\xd8" * 48 + b"\xc3"))  # 48 of mov rax, rbx
    data = bytearray(translator.kept.dump())
    checked = 8 + int.from_bytes(data[:8], "little") + RECORD_CHECKED
    assert data[checked : checked + 2] == b"\0\0"
    Translator().kept.load(bytes(data))
    data[checked] = 1

    with pytest.raises(ValueError, match="no translation"):
        Translator().kept.load(bytes(data))


UPPERMOST = {64: (0x81, 0x82, 0x83), 32: (0xC1, 0xC2)}
"""The uppermost bytes of a kernel's addresses, as 32-bit fields of its code have them."""


def far_fields(code: bytes | bytearray, linear: int, bits: int = 64) -> list[int]:
    """Return offsets of 32-bit fields with absolute addresses of the kernel."""
    found = []
    decoder = Decoder(bits, code, ip=linear)
    for instruction in decoder:
        offsets = decoder.get_constant_offsets(instruction)
        at = instruction.ip - linear
        relative = instruction.is_ip_rel_memory_operand or any(
            instruction.op_kind(i) in (OpKind.NEAR_BRANCH64, OpKind.NEAR_BRANCH32)
            for i in range(instruction.op_count)
        )
        for offset, size in (
            (offsets.displacement_offset, offsets.displacement_size),
            (offsets.immediate_offset, offsets.immediate_size),
        ):
            field = code[at + offset : at + offset + 4]
            if size == 4 and not relative and field[3] in UPPERMOST[bits]:
                found.append(at + offset)
    return found


def moved(code: bytes, linear: int, bits: int = 64, by: int = MOVED - KERNEL) -> bytes:
    """Return `code` as in a kernel that has moved, by default from KERNEL to MOVED."""
    result = bytearray(code)
    for at in far_fields(code, linear, bits):
        value = int.from_bytes(result[at : at + 4], "little") + by
        result[at : at + 4] = value.to_bytes(4, "little")
    return bytes(result)


def boundaries(code: bytes, linear: int, bits: int = 64) -> list[int]:
    """Return the start of every fourth instruction; the last may continue in the next page."""
    starts = [i.ip - linear for i in Decoder(bits, code, ip=linear) if not i.is_invalid]
    return [at for at in starts[::4] if at < PAGE_SIZE - 15]


def test_what_a_compiler_made_is_the_same_when_its_addresses_move(translator: Translator) -> None:
    """Instructions of many forms with kernel addresses are moved as a kernel moves itself."""
    rng = random.Random(11)
    opcodes = [bytes.fromhex(form.split("{")[0]) for form in ADDRESSES.values()]
    found = 0
    for _ in range(300):
        parts: list[bytes] = []
        for _ in range(6):
            prefix = rng.choice(opcodes)
            fields = 2 if prefix == bytes.fromhex("48c787") else 1
            parts.append(prefix)
            addresses = [rng.randrange(0x81000000, 0x83000000) for _ in range(fields)]
            parts += [address.to_bytes(4, "little") for address in addresses]
            parts.append(rng.choice((b"", b"\x90", bytes.fromhex("4801d8"), bytes.fromhex("84c0"))))
        code = b"".join(parts) + b"\xc3"
        asked(translator, page(code))
        found += asked(translator, page(moved(code, KERNEL)), linear=MOVED)
    assert found == 300


@pytest.mark.skipif(
    Store(default_root()).find(kernels_of(), CLOUD_KERNEL) is None,
    reason="no kernel fetched: ringlet bench translate",
)
def test_a_kernel_that_moved_is_found(translator: Translator) -> None:
    text, linear = kernel_text()
    again = Translator()
    total = 0
    for start in range(0, len(text) - PAGE_SIZE, PAGE_SIZE * KERNEL_EVERY):
        data = text[start : start + PAGE_SIZE]
        there = moved(data, linear + start)
        for at in boundaries(data, linear + start):
            translator.translate_in(data, at, linear + start, MODE, True)
            found = translator.translate_in(there, at, linear + start + MOVED - KERNEL, MODE, True)
            made = again.translate_in(there, at, linear + start + MOVED - KERNEL, MODE, True)
            assert found == made, hex(linear + start + at)
            total += 1
    assert translator.kept.found > .99 * total > 1000


def filled(translator: Translator) -> None:
    """Translate different pages until there is no more room."""
    for i in range(200_000):
        body = b"".join(b"\xb8" + (i * 128 + k).to_bytes(4, "little") for k in range(90))
        translator.translate_in(page(body + b"\xc3"), 0x100, KERNEL, MODE, True)
        if translator.kept.emptied:
            return
    pytest.fail("it never was full")


def test_full_memory_forgets_the_latest_and_goes_on(translator: Translator) -> None:
    asked(translator, page(ADD))
    filled(translator)

    assert asked(translator, page(ADD))
    assert not asked(translator, page(ADD, 0x200), 0x200)
    assert asked(translator, page(ADD, 0x200), 0x200)


def test_one_run_leaves_earlier_ones_their_part_of_what_is_stored(translator: Translator) -> None:
    asked(translator, page(ADD))
    hostile = Translator()
    hostile.kept.load(translator.kept.dump())
    filled(hostile)
    stored = hostile.kept.dump()
    after = Translator()
    after.kept.load(stored)

    assert len(stored) < 33 << 20
    assert asked(after, page(ADD))


def test_what_many_runs_do_not_use_is_stored_no_more(translator: Translator) -> None:
    asked(translator, page(ADD))
    stored = [translator.kept.dump()]
    for _ in range(9):
        idle = Translator()
        idle.kept.load(stored[-1])
        stored.append(idle.kept.dump())
    before, after = Translator(), Translator()
    before.kept.load(stored[8])
    after.kept.load(stored[9])

    assert asked(before, page(ADD))
    assert not asked(after, page(ADD))
