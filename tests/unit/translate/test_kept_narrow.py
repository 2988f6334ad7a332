"""Kept translations of 32-bit code are found wherever they are valid, and nowhere else."""

from pathlib import Path

import pytest
from tests.unit.translate.test_kept import KERNEL_EVERY, boundaries, moved, page

from ringlet.bench.kernel import kernel_text
from ringlet.config import PAGE_SIZE
from ringlet.images.debian import PAE_KERNEL, kernels_of
from ringlet.images.release import split_release
from ringlet.images.store import Store, default_root
from ringlet.translate.translator import KEYS, Translator

KERNEL, MOVED = 0xC1000000, 0xCB600000
USER = 0x08048000
LAST = 0xFFFFF000
FLAT = KEYS["mode32"]


def asked(
    translator: Translator,
    data: bytes,
    at: int = 0x100,
    linear: int = KERNEL,
    key: int = FLAT,
    indirect: bool = True,
) -> bool:
    """Translate, compare with a new translator's output, and return whether it was kept."""
    before = translator.kept.found
    found = translator.translate_in(data, at, linear, key, indirect)
    assert found == Translator().translate_in(data, at, linear, key, indirect)
    return translator.kept.found == before + 1


@pytest.fixture
def translator() -> Translator:
    return Translator()


ADD = bytes.fromhex("01d8 8b07 c3")  # add eax, ebx; mov eax, [edi]; ret
CALL = bytes.fromhex("01d8 e8f0000000")


def test_same_bytes_at_the_same_place_are_found(translator: Translator) -> None:
    assert not asked(translator, page(ADD))
    assert asked(translator, page(ADD))


@pytest.mark.parametrize("code", [ADD, CALL], ids=["add", "call"])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("made_at", [0, USER, KERNEL])
@pytest.mark.parametrize("linear", [0, USER, 0x7FFFF000, 0x80000000, MOVED, LAST])
def test_the_address_of_the_page_does_not_matter(
    translator: Translator, code: bytes, indirect: bool, made_at: int, linear: int
) -> None:
    asked(translator, page(code), linear=made_at, indirect=indirect)
    assert asked(translator, page(code), linear=linear, indirect=indirect)


WRAPPING = {
    "jmp over the end": ("e900200000", LAST),
    "jz over the end": ("0f8400200000 f4", LAST),
    "call over the end": ("e800200000", LAST),
    "loop over the end": ("e27f", LAST),
    "jmp below 0": ("e900f0ffff", 0),
    "jz below 0": ("0f8400f0ffff f4", 0),
    "jecxz below 0": ("e380", 0),
}


@pytest.mark.parametrize(("code", "linear"), WRAPPING.values(), ids=WRAPPING)
def test_where_a_target_wraps_around_does(translator: Translator, code: str, linear: int) -> None:
    at = 0x10 if linear == 0 else PAGE_SIZE - 0x20
    data = page(bytes.fromhex(code), at)
    assert not asked(translator, data, at, USER)
    assert not asked(translator, data, at, linear)
    assert not asked(translator, data, at, linear)
    assert asked(translator, data, at, MOVED)


@pytest.mark.parametrize("code", ["66e90001", "660f840001 f4", "66e80001", "6667e210"])
def test_jumps_of_16_bits_are_not_kept(translator: Translator, code: str) -> None:
    data = page(bytes.fromhex(code))
    asked(translator, data, linear=0)
    assert not asked(translator, data, linear=USER)
    assert not asked(translator, data, linear=0)
    assert translator.kept.added == 0


def test_the_end_of_4_gib_does(translator: Translator) -> None:
    """The fragment ends with the page, and goes on at 0 if that is the last one."""
    at = PAGE_SIZE - 4
    data = page(b"\x90" * 4, at)
    assert not asked(translator, data, at, LAST)
    assert asked(translator, data, at, USER)
    assert not asked(translator, data, at, LAST)


def test_the_place_in_the_page_does(translator: Translator) -> None:
    asked(translator, page(ADD, 0x100), 0x100)
    assert not asked(translator, page(ADD, 0x101), 0x101)


@pytest.mark.parametrize("more", [KEYS["cpl"], KEYS["nm"], KEYS["mode64"] | KEYS["mode32"]])
def test_the_mode_does(translator: Translator, more: int) -> None:
    asked(translator, page(ADD))
    assert not asked(translator, page(ADD), key=FLAT ^ more)


@pytest.mark.parametrize(
    "key",
    [KEYS["mode16"]]
    + [FLAT | KEYS[name] for name in ("segmented", "stack16", "cs64k", "cs_odd")]
    + [FLAT | KEYS["cs64k"] | KEYS["cs_odd"]],
)
def test_code_in_segments_is_not_kept(translator: Translator, key: int) -> None:
    with pytest.raises(ValueError, match="not a page of code that is kept"):
        translator.translate_in(page(ADD), 0x100, KERNEL, key)


def test_one_with_an_entry_serves_where_none_is_needed(translator: Translator) -> None:
    for indirect in (True, False, True):
        translator.translate_in(page(ADD), 0x100, KERNEL, FLAT, indirect)
    assert (translator.kept.added, translator.kept.found) == (1, 2)


def test_every_byte_it_was_made_from_counts(translator: Translator) -> None:
    asked(translator, page(ADD))
    for i in range(len(ADD)):
        changed = bytearray(ADD)
        changed[i] ^= 1
        assert not asked(translator, page(bytes(changed))), i


def test_code_behind_it_does_not_count(translator: Translator) -> None:
    """Its flags are exact wherever it ends."""
    jump = bytes.fromhex("01d8 eb10") + bytes(16)
    asked(translator, page(jump + bytes.fromhex("39d8 c3")))
    assert asked(translator, page(jump + bytes.fromhex("7402 c3 c3")))


ADDRESSES = {
    "immediate": "bf {}",  # mov edi, imm32
    "immediate of 16 bits before": "66bf1234 bf {}",
    "immediate to the stack": "c70424 {}",
    "immediate to memory": "c707 {}",
    "immediate to the address": "c705 {} {}",
    "push": "68 {}",
    "compare": "3d {}",
    "test": "f7c1 {}",
    "displacement": "8b0d {}",  # mov ecx, [disp32]
    "moffs": "a1 {}",
    "moffs of a byte, stored": "a2 {}",
    "moffs of FS": "64a1 {}",
    "displacement of FS": "648b0d {}",
    "displacement of FS and a base": "648b8f {}",
    "displacement of FS and ESP": "648b8c24 {}",
    "displacement of FS and an index": "648b0c8d {}",
    "displacement and an index": "8b0c85 {}",
    "displacement, base and index": "8b8c87 {}",
    "displacement of a base": "8b8f {}",
    "displacement of a byte's high half": "8aa7 {}",
    "displacement and a bit's number": "0fabbf {}",
    "push of memory": "ff35 {}",
    "pop to memory": "8f05 {}",
    "jump through a table": "ff2485 {}",
    "call through a pointer": "ff15 {}",
    "lea": "8d8f {}",
    "lea of an index": "8d0c85 {}",
    "lea of ESP": "8d8c24 {}",
    "lea of 16 bits": "668d8f {}",
    "vector": "0f1005 {}",
    "displacement and an immediate": "c787 {} {}",
}


def with_value(form: str, value: int) -> bytes:
    """Return a page with the form's code and a RET."""
    return page(bytes.fromhex(form.replace("{}", value.to_bytes(4, "little").hex()) + "90c3"))


@pytest.mark.parametrize("form", ADDRESSES.values(), ids=ADDRESSES)
def test_addresses_of_a_kernel_that_moved_do_not_count(translator: Translator, form: str) -> None:
    assert not asked(translator, with_value(form, 0xC1234567))
    assert asked(translator, with_value(form, 0xCB834567), linear=MOVED)
    assert asked(translator, with_value(form, 0x80000000))
    assert asked(translator, with_value(form, 0xEFFFFFFF))


@pytest.mark.parametrize("form", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("value", [0, 0x7F, 0x12345678, 0x7FFFFFFF, 0xF0000000, 0xFFFFFFFF])
def test_other_values_in_their_place_do(translator: Translator, form: str, value: int) -> None:
    asked(translator, with_value(form, 0xC1234567))
    assert not asked(translator, with_value(form, value))


COUNTED = {
    "of an operation": "0f0187 {}",  # sgdt [edi + v]
    "based on ESP, of POP": "8f8424 {}",
    "of ENTER": "c8 {} 90",
    "of an IN's neighbour": "e5 {}",
    "of a far jump": "ea {} 0800",
}


@pytest.mark.parametrize("form", COUNTED.values(), ids=COUNTED)
def test_what_is_more_than_copied_counts(translator: Translator, form: str) -> None:
    asked(translator, with_value(form, 0xC1234567))
    assert not asked(translator, with_value(form, 0xCB834567))


def test_what_was_kept_serves_another_translator(translator: Translator) -> None:
    asked(translator, page(ADD))
    translator.translate_in(page(ADD), 0x100, KERNEL, KEYS["mode64"])
    later = Translator()
    later.kept.load(translator.kept.dump())

    assert asked(later, page(ADD))
    assert later.kept.added == 0
    assert later.shapes == translator.shapes


@pytest.mark.parametrize("size", [1, 4, 7])
def test_shapes_that_are_cut_off_are_refused(translator: Translator, size: int) -> None:
    asked(translator, page(ADD))
    data = translator.kept.dump()
    shapes = int.from_bytes(data[:8], "little") - size
    cut = shapes.to_bytes(8, "little") + data[8 : 8 + shapes] + data[8 + shapes + size :]

    with pytest.raises(ValueError, match="no shape"):
        Translator().kept.load(cut)


def pae_kernel() -> Path | None:
    """Return the image of Debian's kernel for i686, if it has been fetched."""
    package, release = split_release(PAE_KERNEL)
    found = Store(default_root()).find(kernels_of(release), package)
    return found.file("vmlinuz") if found else None


@pytest.mark.skipif(pae_kernel() is None, reason="no kernel fetched: ringlet bench linux --bits 32")
def test_a_kernel_that_moved_is_found(translator: Translator) -> None:
    text, linear = kernel_text(pae_kernel())
    again, by, total = Translator(), MOVED - KERNEL, 0
    for start in range(0, len(text) - PAGE_SIZE, PAGE_SIZE * KERNEL_EVERY):
        data, here = text[start : start + PAGE_SIZE], linear + start
        there = moved(data, here, 32, by)
        for at in boundaries(data, here, 32):
            translator.translate_in(data, at, here, FLAT, True)
            found = translator.translate_in(there, at, here + by, FLAT, True)
            assert found == again.translate_in(there, at, here + by, FLAT, True), hex(here + at)
            total += 1
    assert translator.kept.found > 0.99 * total > 1000
