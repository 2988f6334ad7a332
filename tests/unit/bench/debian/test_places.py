"""What rows run in."""

import shutil
from pathlib import Path

import pytest

from ringlet.bench.debian import places
from ringlet.bench.debian.places import make_repository, write_disk
from ringlet.errors import ImageError


def test_a_disk_that_is_read_has_data_everywhere(tmp_path: Path) -> None:
    filled, empty = tmp_path / "filled", tmp_path / "empty"

    write_disk(filled, 2 << 20, filled=True)
    write_disk(empty, 2 << 20, filled=False)

    assert (filled.stat().st_size, empty.stat().st_size) == (2 << 20, 2 << 20)
    assert bytes(4096) not in filled.read_bytes()
    assert filled.stat().st_blocks * 512 >= 2 << 20


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on this host")
def test_the_shared_files_are_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "on_host", lambda tree, program: [shutil.which("git") or ""])
    tree = tmp_path / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/git-core").symlink_to("/usr/lib/git-core")
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.go").write_text("package main\n")

    make_repository(tmp_path / "made", source, tree)

    assert (tmp_path / "made/main.go").read_text() == "package main\n"
    assert any((tmp_path / "made/.git/refs/heads").iterdir())


def test_a_git_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = ["sh", "-c", "echo no room >&2; exit 1"]
    monkeypatch.setattr(places, "on_host", lambda tree, program: fails)
    (tmp_path / "source").mkdir()

    with pytest.raises(ImageError, match=r"git init in .*: failed: no room"):
        make_repository(tmp_path / "made", tmp_path / "source", tmp_path)
