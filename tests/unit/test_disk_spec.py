"""--disk."""

from pathlib import Path

import pytest

from ringlet.disk_spec import Access, Below, DiskSpec, Format, parse_disk
from ringlet.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.img", DiskSpec(Path("a.img"))),
        ("a.img,ro", DiskSpec(Path("a.img"), Access.READ_ONLY)),
        ("/d/a,snapshot", DiskSpec(Path("/d/a"), Access.SNAPSHOT)),
        ("a,format=raw,ro", DiskSpec(Path("a"), Access.READ_ONLY, Format.RAW, Below.ANY)),
        ("a,format=qcow2", DiskSpec(Path("a"), Access.WRITE, Format.QCOW2, Below.ANY)),
        ("a,,b,,,ro", DiskSpec(Path("a,b,"), Access.READ_ONLY)),
    ],
)
def test_what_a_disk_is(text: str, spec: DiskSpec) -> None:
    assert parse_disk(text) == spec


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")

    assert parse_disk("~/a").path == Path("/h/a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no file"),
        (",ro", "no file"),
        ("a\0b", "NUL"),
        ("a,rw", "'rw' is not known"),
        ("a,ro,snapshot", "'snapshot' is not known"),
        ("a,format=vmdk", "'format=vmdk' is not known"),
        ("a,format=raw,format=raw", "'format=raw' is not known"),
        ("a,", "'' is not known"),
        ("~nobody-of-this-name/a", "instead of ~"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_disk(text)
