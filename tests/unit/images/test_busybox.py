"""Which busybox becomes the guest's."""

from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import busybox
from ringlet.images.busybox import NEEDED, applets, find_busybox, is_static
from ringlet.images.release import DEFAULT
from ringlet.images.store import Store
from tests.unit.machine.elf_maker import Elf, Part


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a busybox, so that nothing is fetched."""
    store = Store(tmp_path / "ringlet")
    kind = f"tools/{DEFAULT.codename}"
    with store.locked(), store.adding(kind, "busybox-static") as (directory, _):
        (directory / "busybox").write_bytes(b"cached")
    return store


def script(path: Path, names: list[str]) -> Path:
    """Write a program that lists `names` as its applets."""
    path.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(f"usr/bin/{n}" for n in names) + "\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("elf", "static"),
    [
        (Elf(), True),
        (Elf((Part(), Part(kind=3, data=b"/lib/ld.so"))), False),
        (Elf(machine=183), False),
        (Elf(elf_class=1), False),
        (Elf(()), False),
    ],
    ids=["static", "interpreter", "arm", "32-bit", "no segment"],
)
def test_static_programs_are_known(tmp_path: Path, elf: Elf, static: bool) -> None:
    assert is_static(elf.write(tmp_path / "busybox")) is static


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", Elf().bytes()[:50], Elf().bytes()[:70]])
def test_incomplete_elf_file_is_not_static(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "busybox").write_bytes(content)

    assert not is_static(tmp_path / "busybox")


def test_missing_file_is_not_static(tmp_path: Path) -> None:
    assert not is_static(tmp_path / "busybox")


def test_applets_are_what_busybox_lists(tmp_path: Path) -> None:
    path = script(tmp_path / "busybox", ["ls", "sh"])

    assert applets(path) == ["usr/bin/ls", "usr/bin/sh"]


def test_a_busybox_that_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "busybox"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)

    with pytest.raises(ImageError, match="cannot list its applets"):
        applets(path)


@pytest.mark.parametrize(
    ("names", "is_taken"), [(sorted(NEEDED), True), (["sh", "ls"], False)], ids=["all", "few"]
)
def test_the_hosts_busybox_is_taken_if_it_has_all_that_init_needs(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, names: list[str], is_taken: bool
) -> None:
    monkeypatch.setattr(busybox, "is_static", lambda path: True)
    host = script(tmp_path / "busybox", names)

    assert (find_busybox(store=store, host=host) == host) is is_taken


def test_a_dynamic_busybox_is_not_taken(tmp_path: Path, store: Store) -> None:
    host = script(tmp_path / "busybox", sorted(NEEDED))

    assert find_busybox(store=store, host=host).read_bytes() == b"cached"
