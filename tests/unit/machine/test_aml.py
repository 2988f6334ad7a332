"""The AML encoder against encodings in the ACPI specification, and a reader of its own."""

import pytest

from ringlet.machine import aml
from ringlet.machine import aml_resources as resource
from tests.unit.machine.aml_reader import Reader, read


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a 02"),
        (0xFF, "0a ff"),
        (0x100, "0b 00 01"),
        (0x10000, "0c 00 00 01 00"),
        (1 << 32, "0e 00 00 00 00 01 00 00 00"),
    ],
)
def test_integers_take_their_shortest_form(value: int, code: str) -> None:
    assert aml.integer(value) == bytes.fromhex(code)
    assert Reader(aml.integer(value)).value() == value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("_HID", b"_HID"),
        ("RTC", b"RTC_"),
        ("\\_SB", b"\\_SB_"),
        ("\\", b"\\\0"),
        ("^^A.B", b"^^\x2eA___B___"),
        ("\\_SB.PCI0.COM1", b"\\\x2f\x03_SB_PCI0COM1"),
    ],
)
def test_names_are_padded_and_counted(text: str, code: bytes) -> None:
    assert aml.path(text) == code


def test_a_long_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="four letters"):
        aml.path("\\_SB.LONGER")


def test_eisa_ids_are_compressed() -> None:
    # The value that the specification's own example of a PCI bus has.
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0c 41 d0 0a 03")


@pytest.mark.parametrize("size", [0, 1, 58, 59, 60, 61, 62, 63, 4089, 4090, 4091, 4092, 1 << 20])
def test_package_lengths_come_out_even(size: int) -> None:
    data = bytes(i & 0xFF for i in range(size))
    code = aml.buffer(data)
    reader = Reader(code)

    assert reader.value() == data
    assert reader.at == len(code)


def test_longest_one_byte_length() -> None:
    assert aml.scope("ABCD", aml.name("EFGH", aml.string("x" * 46)))[1] == 0x3A
    assert aml.buffer(bytes(60))[1] == 0x3F
    assert aml.buffer(bytes(61))[1:3] == b"\x41\x04"


def test_a_term_of_256_mib_is_refused() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 1 << 28

    with pytest.raises(ValueError, match="too long"):
        aml._with_length(Long())


def test_terms_nest() -> None:
    code = aml.scope(
        "\\_SB",
        aml.device("DEV0", aml.name("VALU", aml.package(aml.integer(7), aml.string("seven")))),
        aml.name("TOP", aml.buffer(b"abc")),
    )

    assert read(code) == {
        "\\_SB_.DEV0": None,
        "\\_SB_.DEV0.VALU": [7, "seven"],
        "\\_SB_.TOP_": b"abc",
    }


@pytest.mark.parametrize(
    ("descriptor", "code"),
    [
        (resource.io_ports(0x3F8, 8), "47 01 f8 03 f8 03 01 08"),
        (resource.irq(4), "22 10 00"),
        (resource.irq(12), "22 00 10"),
        (resource.fixed_memory(0xFEC00000, 0x1000), "86 09 00 01 00 00 c0 fe 00 10 00 00"),
        (resource.bus_numbers(0, 255), "88 0d 00 02 0c 00 00 00 00 00 ff 00 00 00 00 01"),
        (resource.io_window(0xD00, 0xFFFF), "88 0d 00 01 0c 03 00 00 00 0d ff ff 00 00 00 f3"),
        (
            resource.memory_window(0xC0000000, 0xFEBFFFFF),
            "87 17 00 00 0c 01 00000000 000000c0 ffffbffe 00000000 0000c03e",
        ),
        (
            resource.memory_window(1 << 36, (1 << 37) - 1),
            "8a2b00000c01"
            + "00" * 8
            + "0000000010000000 ffffffff1f000000"
            + "00" * 8
            + "0000000010000000",
        ),
    ],
)
def test_resource_descriptors(descriptor: bytes, code: str) -> None:
    assert descriptor == bytes.fromhex(code)


def test_resources_end_with_an_end_tag() -> None:
    assert resource.resources(resource.irq(4)) == bytes.fromhex("11 08 0a 05 22 10 00 79 00")
