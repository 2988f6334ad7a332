"""Translations on disk: only files that were written properly are read."""

import os
from pathlib import Path

import pytest

from ringlet.machine.translations import MAX_FILES, TranslationFile

HERE = b"i" * 32
OTHER = b"o" * 32
KERNEL = Path("/boot/vmlinuz")
CONTENTS = b"translations of the guest" * 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "translations"


@pytest.fixture
def file(directory: Path) -> TranslationFile:
    made = TranslationFile(directory, KERNEL, HERE)
    made.write(CONTENTS)
    return made


def contents(file: TranslationFile) -> bytes | None:
    data = file.read()
    return None if data is None else bytes(data)


def test_written_translations_are_read(file: TranslationFile, directory: Path) -> None:
    assert contents(file) == CONTENTS
    assert contents(TranslationFile(directory, KERNEL, HERE)) == CONTENTS


def test_a_first_run_finds_nothing(directory: Path) -> None:
    assert TranslationFile(directory, KERNEL, HERE).read() is None
    assert not directory.exists()


def test_kernels_have_files_of_their_own(file: TranslationFile, directory: Path) -> None:
    assert TranslationFile(directory, Path("/boot/other"), HERE).read() is None


def test_only_its_user_can_read_it(file: TranslationFile, directory: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700


def test_another_translator_does_not_use_it(file: TranslationFile, directory: Path) -> None:
    other = TranslationFile(directory, KERNEL, OTHER)
    file.path.rename(other.path)

    assert other.read() is None


def test_every_byte_is_checked(file: TranslationFile) -> None:
    data = file.path.read_bytes()
    for i in (*range(100), len(data) // 2, len(data) - 1):
        file.path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        assert file.read() is None, i


@pytest.mark.parametrize("size", [0, 1, 40, 90, 1000])
def test_a_file_cut_short_is_not_used(file: TranslationFile, size: int) -> None:
    os.truncate(file.path, size)
    assert file.read() is None


def test_one_made_elsewhere_is_not_used(file: TranslationFile, tmp_path: Path) -> None:
    elsewhere = TranslationFile(tmp_path / "elsewhere", KERNEL, HERE)
    elsewhere.write(CONTENTS)
    file.path.write_bytes(elsewhere.path.read_bytes())

    assert file.read() is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_one_that_others_may_write_is_not_used(file: TranslationFile, mode: int) -> None:
    file.path.chmod(mode)
    assert file.read() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_one_of_another_user_is_not_used(file: TranslationFile) -> None:
    os.chown(file.path, 12345, 12345)
    assert file.read() is None


def test_a_link_is_not_followed(file: TranslationFile, tmp_path: Path) -> None:
    moved = file.path.rename(tmp_path / "moved")
    file.path.symlink_to(moved)

    assert file.read() is None


def test_special_files_are_not_waited_for(file: TranslationFile) -> None:
    file.path.unlink()
    os.mkfifo(file.path, 0o600)
    assert file.read() is None


def test_a_directory_that_others_may_write_is_not_used(
    file: TranslationFile, directory: Path
) -> None:
    directory.chmod(0o777)

    assert file.read() is None
    with pytest.raises(PermissionError, match="others may write"):
        file.write(CONTENTS)


def test_a_bad_file_is_replaced(file: TranslationFile) -> None:
    file.path.write_bytes(b"nonsense")
    file.write(CONTENTS)
    assert contents(file) == CONTENTS


def test_a_lost_key_is_made_anew(file: TranslationFile, directory: Path) -> None:
    (directory / "key").write_bytes(b"short")
    assert file.read() is None

    file.write(CONTENTS)
    assert contents(file) == CONTENTS


def test_nothing_half_written_is_left(
    file: TranslationFile, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    before = sorted(directory.iterdir())
    monkeypatch.setattr(Path, "replace", fails)

    with pytest.raises(OSError, match="No space"):
        file.write(CONTENTS * 2)
    monkeypatch.undo()
    assert sorted(directory.iterdir()) == before
    assert contents(file) == CONTENTS


def test_files_of_a_killed_process_are_removed(file: TranslationFile, directory: Path) -> None:
    old, new = directory / ".unfinished-old", directory / ".unfinished-new"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    file.write(CONTENTS)

    assert not old.exists()
    assert new.exists()


def test_reading_is_use(file: TranslationFile) -> None:
    os.utime(file.path, (0, 0))
    file.read()
    assert file.path.stat().st_mtime > 0


def test_files_used_last_are_kept(directory: Path) -> None:
    files = [TranslationFile(directory, Path(f"/k{i}"), HERE) for i in range(MAX_FILES + 3)]
    for i, file in enumerate(files):
        file.write(CONTENTS)
        os.utime(file.path, (1_000_000 + i, 1_000_000 + i))

    assert [file.read() is not None for file in files] == [False] * 3 + [True] * MAX_FILES
