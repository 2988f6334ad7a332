"""Versions of packages, and what they depend on."""

import pytest

from ringlet.errors import ImageError
from ringlet.images.resolver import Packages, compare


def stanza(name: str, version: str = "1", **fields: str) -> str:
    lines = [f"Package: {name}", f"Version: {version}", "Architecture: amd64", "Size: 1"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in fields.items()]
    return "\n".join(lines)


def packages(*stanzas: str) -> Packages:
    found = Packages("Debian 12")
    found.add("\n\n".join(stanzas), "http://server")
    return found


def names(found: Packages, *wanted: str) -> list[str]:
    return [package.name for package in found.closure(wanted)]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1", "2"), ("1.9", "1.10"), ("1.0~rc1", "1.0"), ("1.0", "1.0-1"), ("1.0-1", "1.0-1+b1"),
        ("9", "1:1"), ("1.0-1", "1.0.1-1"), ("1.0a", "1.0+"), ("1~~", "1~"), ("1~", "1"),
        ("2.36-9+deb12u9", "2.36-9+deb12u14"), ("1-1-1", "1-1-2"), ("0:1", "1:0"), ("a", "b"),
    ],
)  # fmt: skip
def test_versions_in_order(older: str, newer: str) -> None:
    assert compare(older, newer) < 0 < compare(newer, older)


@pytest.mark.parametrize(("one", "other"), [("1", "0:1"), ("1.0", "1.00"), ("1", "1-0")])
def test_equal_versions(one: str, other: str) -> None:
    assert compare(one, other) == 0


def test_the_newest_of_several_lists() -> None:
    found = packages(stanza("a", "1.2"))
    found.add(stanza("a", "1.10"), "http://security")
    found.add(stanza("a", "1.3"), "http://server")

    newest = found.newest("a")

    assert newest is not None
    assert (newest.version, newest.uri) == ("1.10", "http://security")


def test_all_that_a_package_depends_on() -> None:
    found = packages(
        stanza("a", Depends="b (>= 1), c:any | d"), stanza("b", Pre_Depends="e"),
        stanza("c", Recommends="d"), stanza("d"), stanza("e", Depends="a"),
    )  # fmt: skip

    assert names(found, "a") == ["a", "b", "c", "e"]


def test_an_alternative_that_is_chosen_already() -> None:
    assert names(packages(stanza("a", Depends="b | c"), stanza("b"), stanza("c")), "a", "c") == [
        "a", "c",
    ]  # fmt: skip


def test_an_alternative_that_exists() -> None:
    assert names(packages(stanza("a", Depends="b | c"), stanza("c")), "a") == ["a", "c"]


def test_a_virtual_package_is_provided_by_the_most_important() -> None:
    found = packages(
        stanza("a", Depends="awk"), stanza("gawk", Provides="awk", Priority="optional"),
        stanza("mawk", Provides="awk", Priority="required"),
    )  # fmt: skip

    assert names(found, "a") == ["a", "mawk"]


def test_a_version_of_a_virtual_package() -> None:
    found = packages(
        stanza("a", Depends="v (>= 2)"), stanza("b", Provides="v"),
        stanza("c", Provides="v (= 1)"), stanza("d", Provides="v (= 2)"),
    )  # fmt: skip

    assert names(found, "a") == ["a", "d"]


@pytest.mark.parametrize(
    ("relation", "good"),
    [("b (<< 2)", False), ("b (<= 2)", True), ("b (= 2)", True), ("b (= 1)", False),
     ("b (>= 3)", False), ("b (>> 1)", True), ("x", False)],
)  # fmt: skip
def test_versions_that_a_package_wants(relation: str, *, good: bool) -> None:
    found = packages(stanza("a", Depends=relation), stanza("b", "2"))

    if good:
        assert names(found, "a") == ["a", "b"]
    else:
        with pytest.raises(ImageError, match=r"a needs .*, which Debian 12 does not have"):
            found.closure(["a"])


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ImageError, match="x: Debian 12 has no such package"):
        packages().closure(["x"])


@pytest.mark.parametrize("text", ["", "x", "Package: a", "Package: a\nVersion: 1\nSize: many"])
def test_stanzas_that_name_no_package(text: str) -> None:
    assert packages(text).newest("a") is None
