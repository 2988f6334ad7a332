"""`ringlet image`."""

import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ringlet.cli.image import age, image_app
from ringlet.cli.main import main
from ringlet.errors import ConfigError, ImageError
from ringlet.images.building import Outcome, Runner
from ringlet.images.catalog import Images
from ringlet.images.store import Store
from tests.unit.images.archives import member, tar


def runner() -> Runner:
    return lambda _task, _update: Outcome(None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(image_app(runner), arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_an_empty_store(cache: Path) -> None:
    assert call("ls") == "no images; `ringlet image build` makes Debian's\n"


def test_import_list_and_remove(cache: Path) -> None:
    (cache / "root.tar").write_bytes(tar([member("a", b"x" * 5000)]))

    added = call("import", str(cache / "root.tar"), "--name", "mine", "--size", "256M")

    assert added.startswith("mine  tar")
    assert call("ls").split()[:2] == ["mine", "tar"]
    assert call("rm", "mine") == ""
    assert "no images" in call("ls")


def test_removing_goes_on_after_what_is_not_there_and_fails_at_the_end(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "root.tar").write_bytes(tar([member("a")]))
    call("import", str(cache / "root.tar"))

    status = main(["image", "rm", "mine", "root", "other"])

    assert status == 2
    assert capsys.readouterr().err.splitlines() == [
        "ringlet: mine: there is no such image; `ringlet image ls` lists all",
        "ringlet: other: there is no such image; `ringlet image ls` lists all",
    ]
    assert Images(Store(cache / "cache/ringlet")).find("root") is None


def test_removing_while_another_process_makes_an_image_waits_and_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "root.tar").write_bytes(tar([member("a")]))
    call("import", str(cache / "root.tar"))
    told: list[str] = []
    monkeypatch.setattr("ringlet.cli.image.complain", told.append)
    other = Store(cache / "cache/ringlet")
    held = threading.Event()

    def make() -> None:
        with other.locked():
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=make)
    thread.start()
    held.wait()
    call("rm", "root")
    thread.join()

    assert told == ["waiting for another process that makes an image"]


def test_removing_what_a_machine_uses(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "root.tar").write_bytes(tar([member("a")]))
    call("import", str(cache / "root.tar"))
    image = Images(Store(cache / "cache/ringlet")).find("root")
    assert image is not None

    with image.used():
        assert main(["image", "rm", "root"]) == 2

    assert "a running machine uses" in capsys.readouterr().err
    assert image.disk.exists()


@pytest.mark.parametrize("name", ["ubuntu", "debian:go"])
def test_building_what_nobody_can_build(cache: Path, name: str) -> None:
    with pytest.raises((ConfigError, ImageError), match=r"cannot be built|no such variant"):
        call("build", name)


@pytest.mark.parametrize("size", ["1M", "x"])
def test_sizes_that_no_disk_has(cache: Path, size: str) -> None:
    with pytest.raises(ConfigError, match="--size"):
        call("import", "root.tar", "--size", size)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (1.5, "1 second"), (59, "59 seconds"), (60, "1 minute"),
     (7199, "1 hour"), (86400 * 3, "3 days")],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text
