"""`ringlet cache ls` and `ringlet cache prune`."""

from pathlib import Path

import pytest

from ringlet.cli.main import main
from ringlet.images.catalog import Images

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "ringlet/apt/trixie").mkdir(parents=True)
    (tmp_path / "ringlet/apt/trixie/lists").write_bytes(b"x" * 5000)
    (tmp_path / "ringlet/bench/image").mkdir(parents=True)
    return tmp_path / "ringlet"


def test_list(cache: Path, capfd: Capture) -> None:
    assert main(["cache", "ls"]) == 0
    lines = capfd.readouterr().out.splitlines()

    assert [line.split()[0] for line in lines[:2]] == ["apt/trixie", "bench/image"]
    assert lines[2].endswith(f" in {cache}")


def test_prune_removes_what_no_run_needs(cache: Path, capfd: Capture) -> None:
    assert main(["cache", "prune", "--dry-run"]) == 0
    assert "would free " in capfd.readouterr().out
    assert (cache / "apt/trixie/lists").exists()

    assert main(["cache", "prune"]) == 0
    assert "freed " in capfd.readouterr().out
    assert not (cache / "apt").exists()
    assert (cache / "bench/image").exists()


def test_prune_of_all(cache: Path) -> None:
    assert main(["cache", "prune", "--all"]) == 0
    assert [path.name for path in cache.iterdir()] == ["lock"]


@pytest.mark.parametrize("option", [[], ["--all"]])
def test_prune_keeps_what_is_imported(option: list[str], cache: Path, capfd: Capture) -> None:
    with Images().adding("mine", "tar") as draft:
        draft.disk.write_bytes(b"x" * 5000)
    assert main(["cache", "prune", *option]) == 0

    assert [image.name for image in Images().list()] == ["mine"]
    assert ("images/mine" in capfd.readouterr().out) is bool(option)


def test_prune_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))

    assert main(["cache", "prune"]) == 0
    assert capfd.readouterr().out.startswith("nothing to remove: there is no ")
    assert not (tmp_path / "none").exists()
