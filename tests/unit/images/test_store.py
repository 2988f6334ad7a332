"""The cache directory, whose entries are complete or absent."""

import errno
import json
import os
import re
import threading
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import store as store_module
from ringlet.images.store import Store, default_root, explain
from tests.unit.images.packages import names


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ringlet")


def add(
    store: Store,
    content: bytes = b"content",
    name: str = "thing",
    room: int = 0,
    error: BaseException | None = None,
) -> None:
    with store.locked(), store.adding("kernels", name, room) as (directory, facts):
        (directory / "file").write_bytes(content)
        facts["version"] = "1"
        if error is not None:
            raise error


def test_an_entry_has_its_files_and_facts(store: Store) -> None:
    add(store)
    entry = store.find("kernels", "thing")

    assert entry is not None
    assert entry.facts == {"version": "1"}
    assert (entry.file("file") or Path()).read_bytes() == b"content"


def test_nothing_is_found_in_an_empty_store(store: Store) -> None:
    assert store.find("kernels", "thing") is None


def test_a_changed_file_counts_as_absent(store: Store) -> None:
    add(store)
    (store.root / "kernels/thing/file").write_bytes(b"Content")
    entry = store.find("kernels", "thing")

    assert entry is not None
    assert entry.file("file") is None


def test_a_missing_file_and_one_that_was_never_there_are_absent(store: Store) -> None:
    add(store)
    (store.root / "kernels/thing/file").unlink()
    entry = store.find("kernels", "thing")

    assert entry is not None
    assert entry.file("file") is None
    assert entry.file("manifest.json") is None


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", '{"format": 1}', '{"format": 2, "facts": {}, "sha256": {}}', "\xff", "null"],
)
def test_an_entry_with_a_damaged_manifest_counts_as_absent(store: Store, manifest: str) -> None:
    add(store)
    (store.root / "kernels/thing/manifest.json").write_text(manifest, encoding="latin-1")

    assert store.find("kernels", "thing") is None


def test_a_new_entry_takes_the_place_of_the_old(store: Store) -> None:
    add(store, b"old")
    add(store, b"new")
    entry = store.find("kernels", "thing")

    assert entry is not None
    assert (entry.file("file") or Path()).read_bytes() == b"new"


def test_an_entry_that_fails_leaves_the_old_one_and_nothing_else(store: Store) -> None:
    add(store, b"old")
    with pytest.raises(KeyboardInterrupt):
        add(store, b"new", error=KeyboardInterrupt())

    assert names(store.root / "kernels") == ["thing"]
    assert (store.root / "kernels/thing/file").read_bytes() == b"old"


def test_files_of_a_killed_process_are_removed(store: Store) -> None:
    add(store)
    left = store.root / "kernels/.unfinished-abc"
    left.mkdir()
    (left / "file").write_bytes(b"half")
    add(store, name="other")

    assert names(store.root / "kernels") == ["other", "thing"]


def test_manifest_is_json_that_people_can_read(store: Store) -> None:
    add(store)
    manifest = json.loads((store.root / "kernels/thing/manifest.json").read_text())

    assert manifest["facts"] == {"version": "1"}
    assert set(manifest["sha256"]) == {"file"}


def test_too_little_room_is_reported_before_anything_is_made(store: Store) -> None:
    with pytest.raises(ImageError, match="No space left on device; free 200 MiB there"):
        add(store, room=1 << 62)

    assert names(store.root / "kernels") == []


def test_a_cache_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "ringlet").write_bytes(b"")

    with pytest.raises(ImageError, match=r"cannot write the cache: .*; make it writable, or"):
        add(Store(tmp_path / "ringlet" / "x"))


def test_errors_are_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    full = str(explain(OSError(errno.ENOSPC, "No space left on device"), tmp_path))
    files = str(explain(OSError(errno.EMFILE, "Too many open files"), tmp_path))
    read_only = str(explain(OSError(errno.EROFS, "Read-only file system"), tmp_path))

    assert full.endswith("free 200 MiB there, or set XDG_CACHE_HOME to another directory")
    assert files.endswith("; raise the limit of open files (ulimit -n)")
    assert read_only.endswith("make it writable, or set XDG_CACHE_HOME to another directory")


def test_root_follows_the_xdg_specification() -> None:
    assert default_root({"XDG_CACHE_HOME": "/var/cache/me"}) == Path("/var/cache/me/ringlet")
    assert default_root({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/ringlet"
    assert default_root({}) == Path.home() / ".cache/ringlet"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose home directory cannot be created, and where his temporary directory is."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "house"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store_module._temporary_root.cache_clear()
    return tmp_path / f"ringlet-{os.geteuid()}"


def test_without_a_home_directory_it_is_a_temporary_one_and_a_line_says_so(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [default_root({}), default_root({})] == [temporary] * 2
    assert temporary.stat().st_mode & 0o777 == 0o700
    assert len(caplog.messages) == 1
    assert re.fullmatch(
        r"ringlet: .*/house/.cache/ringlet cannot be written; what is fetched is "
        r"kept in .*/ringlet-\d+ \(set XDG_CACHE_HOME .*\)",
        caplog.messages[0],
    )


def test_home_directory_that_is_missing_is_not_made(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent"))

    assert default_root({}) == temporary
    assert not (tmp_path / "nonexistent").exists()


def test_home_that_is_complete_need_not_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cache/ringlet/kernels").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, mode: False)

    assert default_root({}) == tmp_path / ".cache/ringlet"


def test_home_of_another_user_is_none_to_use(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "house"))

    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", refused)  # as Python before 3.14 has it
        patch.setattr(Path, "mkdir", refused)
        patch.setattr("ringlet.images.store._temporary_root", lambda why: tmp_path / why[-17:])
        assert default_root({}) == tmp_path / "cannot be written"


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_temporary_directory_that_others_could_write_is_refused(
    temporary: Path, tmp_path: Path, kind: str
) -> None:
    match kind:
        case "open":
            temporary.mkdir(0o755)
        case "link":
            (tmp_path / "elsewhere").mkdir(0o700)
            temporary.symlink_to(tmp_path / "elsewhere")
        case _:
            temporary.touch()

    with pytest.raises(ImageError, match=r"XDG_CACHE_HOME"):
        default_root({})


def test_a_second_process_waits_and_is_notified(store: Store) -> None:
    order: list[str] = []
    told = threading.Event()

    def second() -> None:
        with store.locked(told.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with store.locked():
        thread.start()
        waited = told.wait(10)
        order.append("first")
    thread.join(10)

    assert waited
    assert order == ["first", "second"]
