"""--flat: the places of flat images, and what is refused."""

import pytest

from ringlet.errors import ConfigError
from ringlet.flat_spec import FlatPlace, parse_flat


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("16@07C0:0000", FlatPlace(16, 0x07C0, 0)),
        ("16@0:7c00", FlatPlace(16, 0, 0x7C00)),
        ("16@f000h:fff0h", FlatPlace(16, 0xF000, 0xFFF0)),
        ("16@0x7c00", FlatPlace(16, 0, 0x7C00)),
        ("16@0x12345", FlatPlace(16, 0x1000, 0x2345)),
        ("16@0FFFF0h", FlatPlace(16, 0xF000, 0xFFF0)),
        ("32@1048576", FlatPlace(32, 0, 0x100000)),
        ("64@0x100000", FlatPlace(64, 0, 0x100000)),
        ("32@1M", FlatPlace(32, 0, 0x100000)),
        ("64@2g", FlatPlace(64, 0, 0x80000000)),
        ("16@64K", FlatPlace(16, 0x1000, 0)),
    ],
)
def test_places(text: str, place: FlatPlace) -> None:
    assert parse_flat(text, "--flat") == place


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a mode and an address"),
        ("0x7c00", "not a mode and an address; give 16@SEGMENT:OFFSET"),
        ("8@0", "not a mode and an address"),
        ("16@", "not a mode and an address"),
        ("32@07C0:0000", "not an address"),
        ("32@0x1M", "not an address"),
        ("32@M", "not an address"),
        ("32@4G", "code of 32 bits starts below 0x100000000"),
        ("16@10000:0", "not an address"),
        ("32@-1", "not an address"),
        ("32@1_0", "not an address"),
        ("32@0x100000\n", "not an address"),
        ("32@" + "9" * 5000, "not an address"),
        ("16@0x100000", "code of 16 bits starts below 0x100000"),
        ("32@0x100000000", "code of 32 bits starts below"),
        ("64@99999999999999999999", "code of 64 bits starts below"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flat(text, "--flat")

    assert str(caught.value).startswith("--flat")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
