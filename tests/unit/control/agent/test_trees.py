"""Trees that are copied into the guest and out of it."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlet.control.agent import Agent, tree
from ringlet.errors import AgentError, ConfigError, GuestFileError, HostFileError, RingletError
from ringlet.guest.protocol import END_OF_DIRECTORY, WORD, Entry
from tests.unit.control.agent.native import names


def make_tree(root: Path) -> None:
    root.mkdir()
    (root / "empty").mkdir(mode=0o711)
    (root / "sub").mkdir()
    (root / "sub" / "big").write_bytes(os.urandom(700_000))
    (root / "sub" / "nothing").touch(mode=0o600)
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    (root / "link").symlink_to("/no/../where//")
    os.link(root / "sub" / "big", root / "again")
    os.mkfifo(root / "fifo", 0o640)
    (root / os.fsdecode(b"\xff name\n")).write_text("odd")
    for path in [*root.rglob("*"), root]:
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a copy keeps."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        about = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)  # noqa: PTH115  as it is
        elif path.is_file():
            content = path.read_bytes()
        links = about.st_nlink if not path.is_dir() else 0
        found[str(path.relative_to(root))] = (about.st_mode, about.st_mtime_ns, links, content)
    return found


def test_copy_in_keeps_modes_times_and_links(agent: Agent, tmp_path: Path) -> None:
    make_tree(tmp_path / "source")

    agent.files.copy_in(tmp_path / "source", tmp_path / "new" / "copy")

    assert described(tmp_path / "new/copy") == described(tmp_path / "source")


def test_copy_out_keeps_modes_times_and_links(agent: Agent, tmp_path: Path) -> None:
    make_tree(tmp_path / "source")

    agent.files.copy_out(tmp_path / "source", tmp_path / "copy")

    assert described(tmp_path / "copy") == described(tmp_path / "source")


@pytest.mark.parametrize("above", ["new", "new/deep", "source"])
def test_copy_out_makes_no_directory_above_the_copy(
    agent: Agent, tmp_path: Path, above: str
) -> None:
    (tmp_path / "source").write_text("text")

    with pytest.raises(ConfigError, match=f"/{above} is no directory of this host; make it first"):
        agent.files.copy_out(tmp_path / "source", tmp_path / above / "copy")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert agent.files.read(tmp_path / "source") == b"text"


def test_copies_into_a_directory_have_the_sources_name(agent: Agent, tmp_path: Path) -> None:
    make_tree(tmp_path / "source")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    agent.files.copy_in(tmp_path / "source", tmp_path / "in")
    agent.files.copy_out(f"{tmp_path}/source/", tmp_path / "out")

    assert described(tmp_path / "in/source") == described(tmp_path / "source")
    assert described(tmp_path / "out/source") == described(tmp_path / "source")


def test_existing_directories_are_filled_and_files_replaced(agent: Agent, tmp_path: Path) -> None:
    make_tree(tmp_path / "source")
    for name in ("in", "out"):
        (tmp_path / name / "source" / "sub").mkdir(parents=True)
        (tmp_path / name / "source" / "kept").touch()
        (tmp_path / name / "source" / "sub" / "big").write_text("old")

    agent.files.copy_in(tmp_path / "source", tmp_path / "in")
    agent.files.copy_out(tmp_path / "source", tmp_path / "out")

    for name in ("in", "out"):
        assert (tmp_path / name / "source" / "kept").exists()
        assert (tmp_path / name / "source/sub/big").stat().st_size == 700_000


def test_single_file_both_ways(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(5_000_001))

    agent.files.copy_in(tmp_path / "file", tmp_path / "in")
    agent.files.copy_out(tmp_path / "in", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == bytes(5_000_001)


def test_set_user_id_comes_in_but_not_out(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o6755)

    agent.files.copy_in(tmp_path / "file", tmp_path / "in")
    agent.files.copy_out(tmp_path / "file", tmp_path / "out")

    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o6755
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_of_what_comes_in(agent: Agent, tmp_path: Path) -> None:
    make_tree(tmp_path / "source")

    agent.files.copy_in(tmp_path / "source", tmp_path / "copy", owner=(12, 34))

    owners = {(p.lstat().st_uid, p.lstat().st_gid) for p in (tmp_path / "copy").rglob("*")}
    assert owners == {(12, 34)}


def test_a_thousand_small_files_take_less_than_seconds(agent: Agent, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(1000):
        (source / str(number)).write_text(str(number))
    began = time.monotonic()

    agent.files.copy_in(source, tmp_path / "in")
    agent.files.copy_out(tmp_path / "in", tmp_path / "out")

    assert time.monotonic() - began < 20
    assert described(tmp_path / "out") == described(source)


def test_error_in_the_middle_names_the_file(agent: Agent, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a").write_bytes(bytes(1_000_000))
    (source / "b").write_bytes(bytes(1_000_000))
    (tmp_path / "copy/source/b").mkdir(parents=True)

    with pytest.raises(GuestFileError, match=r"/copy \(b\): Is a directory"):
        agent.files.copy_in(source, tmp_path / "copy")


def test_missing_source_is_the_hosts_error(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(HostFileError, match=r"/none: No such file .* \(on the host\)$") as raised:
        agent.files.copy_in(tmp_path / "none", tmp_path / "copy")
    assert raised.value.errno == errno.ENOENT
    assert isinstance(raised.value, OSError)
    with pytest.raises(HostFileError, match=r"^none: No such file"):
        agent.files.copy_in("none", tmp_path / "copy")
    with pytest.raises(ConfigError, match="only files, directories and links"):
        agent.files.copy_in("/dev/null", tmp_path / "copy")


def test_target_that_cannot_be_made_is_the_hosts_error(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()

    with pytest.raises(HostFileError, match=r"^/proc/none: .* \(on the host\)$"):
        agent.files.copy_out(tmp_path / "file", "/proc/none")
    (tmp_path / "copy").touch()
    with pytest.raises(HostFileError, match=r"copy: Not a directory \(on the host\)$"):
        agent.files.copy_out(tmp_path / "directory", tmp_path / "copy")


def test_limit_of_what_comes_out(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(2000))

    with pytest.raises(GuestFileError, match="more than 1999 bytes"):
        agent.files.copy_out(tmp_path / "file", tmp_path / "copy", limit=1999)


# --- a guest that lies


def file(name: bytes, content: bytes = b"x", links: int = 1, inode: int = 0) -> bytes:
    entry = Entry(name, stat.S_IFREG | 0o644, links=links, inode=inode)
    chunk = WORD.pack(len(content)) + content if content else b""
    return entry.encode() + chunk + WORD.pack(0)


def directory(name: bytes, *inner: bytes) -> bytes:
    return Entry(name, stat.S_IFDIR | 0o755).encode() + b"".join(inner) + END_OF_DIRECTORY


def link(name: bytes, target: bytes) -> bytes:
    return Entry(name, stat.S_IFLNK | 0o777, target=target).encode()


def unpack(data: bytes, room: Path, limit: int = 1 << 20) -> None:
    def parts() -> Iterator[bytearray]:
        for start in range(0, len(data), 50):
            yield bytearray(data[start : start + 50])

    tree.unpack(parts(), room / "copy", "copy", limit)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../x", b"a/b", b"/etc/x", b"x" * 256])
def test_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(AgentError, match="broke the protocol: a file with the name"):
        unpack(directory(b"d", file(name)), tmp_path)

    assert names(tmp_path) == ["copy"]


def test_link_is_not_followed_by_what_comes_later(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = os.fsencode(outside)

    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        unpack(directory(b"d", link(b"x", target), directory(b"x", file(b"f"))), tmp_path)

    assert names(outside) == []


def test_target_that_an_earlier_copy_made_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    unpack(link(b"data", os.fsencode(outside)), tmp_path)

    with pytest.raises(ConfigError, match=rf"copy is a link; name what it leads to, {outside}"):
        unpack(file(b"payload"), tmp_path)

    assert names(outside) == []


def test_directory_that_is_replaced_by_a_link_meanwhile_gives_no_link_to_its_files(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("of the host")
    made = tmp_path / "copy/a"

    def parts() -> Iterator[bytearray]:
        whole = directory(b"d", directory(b"a", file(b"f", links=2, inode=5)))
        yield bytearray(whole[: -len(END_OF_DIRECTORY)])
        made.rename(tmp_path / "copy/b")
        made.mkdir()
        os.link(outside / "f", made / "f")
        yield bytearray(file(b"again", b"", links=2, inode=5) + END_OF_DIRECTORY)

    with pytest.raises(OSError, match="replaced meanwhile"):
        tree.unpack(parts(), tmp_path / "copy", "copy", 1 << 20)

    assert names(tmp_path / "copy") == ["a", "b"]


def test_files_whose_other_names_never_come_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_LINKED", 3)
    complete = [file(bytes([c]), b"", links=2, inode=c // 2) for c in range(65, 75)]
    alone = [file(bytes([c]), links=2, inode=c) for c in range(97, 101)]
    unpack(directory(b"d", *complete[1:-1], *alone[:3]), tmp_path)

    with pytest.raises(GuestFileError, match="more than 3 files with several names"):
        unpack(directory(b"d", *alone), tmp_path)


def test_file_does_not_write_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")

    unpack(directory(b"d", link(b"x", os.fsencode(victim)), file(b"x")), tmp_path)

    assert victim.read_text() == "kept"
    assert (tmp_path / "copy/x").read_text() == "x"


def test_hard_link_leads_only_to_the_copys_files(tmp_path: Path) -> None:
    data = directory(
        b"d", directory(b"s", file(b"a", b"12", 2, 7)), file(b"b", b"lie", 2, 7),
    )  # fmt: skip

    unpack(data, tmp_path)

    assert (tmp_path / "copy/b").samefile(tmp_path / "copy/s/a")
    assert (tmp_path / "copy/b").read_text() == "12"


def test_deep_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match="more than 200 directories in one another"):
        unpack(Entry(b"d", stat.S_IFDIR | 0o700).encode() * 300, tmp_path)


def test_endless_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_FILES", 10)

    with pytest.raises(GuestFileError, match="more than 10 files"):
        unpack(directory(b"d", *(file(b"%d" % n) for n in range(10))), tmp_path)


def test_impossible_time_is_made_possible(tmp_path: Path) -> None:
    head = Entry(b"f", stat.S_IFREG | 0o600, modified=(2**62) * 10**9).encode()

    unpack(head + WORD.pack(0), tmp_path)

    assert (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"", file(b"f")[:-1], file(b"f") + b"x", directory(b"d")[:-1], END_OF_DIRECTORY,
        Entry(b"f\0", stat.S_IFREG).encode(), link(b"l", b""),
    ],
    ids=["nothing", "cut", "more", "open", "no root", "zero", "empty link"],
)  # fmt: skip
def test_stream_that_is_no_tree(tmp_path: Path, data: bytes) -> None:
    with pytest.raises((AgentError, OSError)):
        unpack(data, tmp_path)


PIECES = st.sampled_from(
    [
        file(b"a"), file(b"b", b"", 2, 5), file(b"c", b"yy", 2, 5), link(b"a", b".."),
        link(b"d", b"/"), Entry(b"a", stat.S_IFDIR | 0o755).encode(),
        Entry(b"d", stat.S_IFDIR).encode(), END_OF_DIRECTORY, file(b"../a"),
        Entry(b"s", stat.S_IFSOCK | 0o755).encode(), WORD.pack(3), b"\xff" * 8,
    ]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=12))
def test_whatever_comes_stays_in_the_copy(
    pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    room = tmp_path_factory.mktemp("room")

    with contextlib.suppress(RingletError, OSError):
        unpack(b"".join(pieces), room)

    assert set(names(room)) <= {"copy"}


def test_hard_links_beyond_the_bound_are_copied_as_files(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_LINKED", 1)
    source = tmp_path / "source"
    source.mkdir()
    for name in "ab":
        (source / name).write_text(name)
        os.link(source / name, source / f"{name}2")

    agent.files.copy_in(source, tmp_path / "copy")

    links = {path.name: (path.read_text(), path.stat().st_nlink) for path in
             (tmp_path / "copy").iterdir()}  # fmt: skip
    assert links == {"a": ("a", 2), "a2": ("a", 2), "b": ("b", 1), "b2": ("b", 1)}
