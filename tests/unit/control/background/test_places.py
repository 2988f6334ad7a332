"""Names, and the directories of machines."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from ringlet.control.background.names import LONGEST, check_name, make_name
from ringlet.control.background.places import (
    Place,
    find,
    machines,
    remove,
    require_free,
    run_directory,
)
from ringlet.errors import ConfigError, HostError


@pytest.mark.parametrize("name", ["a", "web-1", "A.b_c", "9", "x" * LONGEST])
def test_names_as_docker_has_them(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", ".a", "_a", "a/b", "a b", "a\n", "\x1b[2J", "é", "x" * 65]
)
def test_other_names_are_refused_in_a_printable_line(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a machine's name") as refused:
        check_name(name)

    assert str(refused.value).isprintable()


def test_name_that_is_made_is_free() -> None:
    class All:
        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return self.asked < 5

    taken = All()

    assert check_name(make_name(taken))
    assert taken.asked == 5


def test_directory_is_this_users_alone(runtime: Path) -> None:
    directory = run_directory()

    assert directory == runtime / "ringlet" / "machines"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_without_a_private_runtime_directory_it_is_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)

    for given in ("relative", str(tmp_path / "absent"), str(shared)):
        found = run_directory({"XDG_RUNTIME_DIR": given})

        assert found == tmp_path / f"ringlet-run-{os.geteuid()}" / "machines"


def test_directory_that_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"ringlet-run-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(HostError, match="is not a directory of this user alone"):
        run_directory({})


def test_machine_that_ends_leaves_its_status(runtime: Path) -> None:
    place = Place.claim("one", {"guest": "debian", "memory": 5, "ports": ["80:80"]})

    place.end(3, "why")

    found = find("one")
    assert (found.state, found.status, found.message) == ("ended", 3, "why")
    assert (found.guest, found.memory, found.ports) == ("debian", 5, ("80:80",))
    with pytest.raises(ConfigError, match="one: a machine that has ended has this name; ringlet"):
        require_free("one")
    remove(found)
    require_free("one")


def test_machine_leaves_nothing_if_that_was_asked(runtime: Path) -> None:
    Place.claim("one", {}, remove=True).end(3)

    assert machines() == []


@pytest.mark.parametrize("by_itself", [True, False])
def test_machine_that_is_being_removed_is_no_longer_seen(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    place = Place.claim("one", {}, remove=by_itself)
    remove_tree = shutil.rmtree
    seen = []

    def remove_slowly(directory: Path, *, ignore_errors: bool = False) -> None:
        for name in ("lock", "machine.json"):
            (directory / name).unlink()
        seen.append([found.state for found in machines()])
        remove_tree(directory, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    place.end(3)
    if not by_itself:
        remove(find("one"))

    assert seen == [[]]
    assert [*run_directory().iterdir()] == []


def test_files_are_this_users_alone(runtime: Path) -> None:
    place = Place.claim("one", {"env": ["SECRET=1"]})
    place.end(0)

    for file in place.directory.iterdir():
        assert not file.stat().st_mode & 0o077


def test_there_is_no_machine_of_another_name(runtime: Path) -> None:
    with pytest.raises(ConfigError, match="two: there is no such machine; ringlet ps -a lists all"):
        find("two")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"memory": "much", "ports": 3, "guest": []}']
)
def test_damaged_directory_is_shown_and_can_be_removed(runtime: Path, content: bytes) -> None:
    directory = run_directory() / "odd"
    directory.mkdir()
    (directory / "machine.json").write_bytes(content)

    (found,) = machines()

    assert (found.name, found.state, found.guest, found.memory) == ("odd", "killed", "", 0)
    remove(found)
    assert machines() == []


def test_directory_without_a_name_is_swept_when_it_is_old(runtime: Path) -> None:
    new = run_directory() / ".new-x"
    new.mkdir()
    old = run_directory() / ".new-y"
    old.mkdir()
    (old / "machine.json").write_text(json.dumps({}))
    os.utime(old, (0, 0))

    assert machines() == []

    assert new.is_dir()
    assert not old.exists()
