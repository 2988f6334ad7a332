"""Building Debian's image: what the guest is asked to do, and what a failure leaves."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import building, catalog
from ringlet.images.building import (
    Outcome,
    Runner,
    Task,
    Update,
    build_debian,
    fetch_modules,
    find_debian,
)
from ringlet.images.catalog import Images
from ringlet.images.debian import CachedKernel
from ringlet.images.store import Store
from tests.unit.images.archives import member, tar
from tests.unit.images.cpio_reader import members
from tests.unit.images.test_deb import make
from tests.unit.images.test_modules import RELEASE, module, package

MASTER = "./usr/share/base-passwd"


def silent(_text: str) -> None:
    pass


class Host:
    """A store, a kernel with one module, and a package for an image."""

    def __init__(self, directory: Path) -> None:
        self.images = Images(Store(directory / "ringlet"))
        deb = package(directory, {"virtio_blk.ko": module(depends="")})
        (directory / "vmlinuz").write_bytes(b"kernel")
        self.kernel = CachedKernel(directory / "vmlinuz", deb, RELEASE, "6.1-1")
        self.busybox = directory / "busybox"
        self.busybox.write_text("#!/bin/sh\necho bin/busybox bin/sh\n")
        self.busybox.chmod(0o755)
        self.tasks: list[Task] = []

    def runner(self, outcome: Outcome) -> Runner:
        def run(task: Task, _update: Update) -> Outcome:
            self.tasks.append(task)
            return outcome

        return run


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    files = tar([member(f"{MASTER}/{name}.master") for name in ("passwd", "group")])

    def fetch(
        _packages: object, directory: Path, *_: object, **_others: object
    ) -> tuple[list[Path], dict[str, str]]:
        return [make(directory, "base-passwd", files)], {"base-passwd": "1"}

    monkeypatch.setattr(building, "fetch_kernel", lambda **_: found.kernel)
    monkeypatch.setattr(building, "find_busybox", lambda *_, **__: found.busybox)
    monkeypatch.setattr(building, "fetch_packages", fetch)
    return found


def test_the_guest_sets_up_the_disk_that_becomes_the_image(host: Host) -> None:
    image = build_debian(host.images, host.runner(Outcome(0)), silent)

    [task] = host.tasks
    assert task.kernel is host.kernel
    assert [path.name for path in task.disks] == ["disk.raw"]
    # The archive of modules stands before the RAM disk's own.
    end = task.initrd.index(b"TRAILER!!!")
    own = members(task.initrd[task.initrd.index(b"070701", end) :])
    assert own["ringlet/command"].content == b"set -- '/ringlet-setup'\n"
    assert b"nobarrier" in own["ringlet/settings"].content
    assert (image.name, image.kind, image.settings.boots) == ("debian", "debian", True)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(1, "one\ndpkg: error"), "sets Debian up failed: 1; dpkg: error"),
        (Outcome(None), "sets Debian up ended early$"),
    ],
)
def test_a_setup_that_fails_leaves_nothing(host: Host, outcome: Outcome, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        build_debian(host.images, host.runner(outcome), silent)

    assert list(host.images.root.iterdir()) == []


def test_a_variant_that_nobody_knows(host: Host) -> None:
    with pytest.raises(ImageError, match="debian:go: there is no such variant"):
        build_debian(host.images, host.runner(Outcome(0)), silent, variant="go")


def test_debian_is_what_was_built_and_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may have one that was imported before its name was reserved."""
    monkeypatch.setattr(catalog, "is_own", lambda _name: False)
    with host.images.adding("debian", "disk") as draft:
        draft.disk.write_bytes(b"evil")

    image = find_debian(host.images, host.runner(Outcome(0)), silent)

    assert image.kind == "debian"
    assert find_debian(host.images, host.runner(Outcome(1)), silent) == image


def test_debian_of_another_version_is_built_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = find_debian(host.images, host.runner(Outcome(0)), silent)
    monkeypatch.setattr(building, "PACKAGES", ("base-passwd",))
    lines: list[str] = []

    new = find_debian(host.images, host.runner(Outcome(0)), lines.append)

    assert len(host.tasks) == 2
    assert new.digest != old.digest
    assert lines[0] == "the image debian is of another version of Ringlet; it is built anew"
    assert find_debian(host.images, host.runner(Outcome(1)), silent) == new


def test_debian_of_another_version_is_used_if_it_cannot_be_built_anew(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = find_debian(host.images, host.runner(Outcome(0)), silent)
    monkeypatch.setattr(building, "PACKAGES", ("base-passwd",))
    lines: list[str] = []

    assert find_debian(host.images, host.runner(Outcome(1, "no")), lines.append) == old

    assert "failed: 1; no; the image of the other version is used" in lines[-1]

    assert find_debian(host.images, host.runner(Outcome(0)), lines.append) == old
    assert len(host.tasks) == 2, "it is not tried at each run"
    monkeypatch.setattr(building, "_AGAIN_S", 0)
    assert find_debian(host.images, host.runner(Outcome(0)), lines.append) != old


def test_debian_that_another_process_builds_is_awaited_and_not_built_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    locked, others = host.images.store.locked, Images(host.images.store)

    @contextlib.contextmanager
    def wait(on_wait: Callable[[], None]) -> Iterator[None]:
        monkeypatch.setattr(host.images.store, "locked", locked)
        on_wait()
        build_debian(others, host.runner(Outcome(0)), silent)
        with locked(on_wait):
            yield

    modules = fetch_modules(host.kernel, silent, store=host.images.store)
    monkeypatch.setattr(building, "fetch_modules", lambda kernel, *_, **__: modules)
    monkeypatch.setattr(host.images.store, "locked", wait)
    image = find_debian(host.images, host.runner(Outcome(0)), steps.append)

    assert len(host.tasks) == 1
    assert image == others.find("debian")
    assert steps[0] == "waiting for another ringlet process that makes an image"
    assert sorted(path.name for path in host.images.root.iterdir()) == ["debian"]


def test_modules_are_read_once(host: Host) -> None:
    said: list[str] = []

    first = fetch_modules(host.kernel, said.append, store=host.images.store)
    second = fetch_modules(host.kernel, said.append, store=host.images.store)

    assert first == second
    assert said == [f"reading the modules of Linux {RELEASE}"]
    assert members(first.archive.read_bytes())["ringlet/modules/virtio_blk.ko"].content


def test_modules_that_were_changed_are_made_again(host: Host) -> None:
    first = fetch_modules(host.kernel, silent, store=host.images.store)
    first.archive.write_bytes(b"")

    second = fetch_modules(host.kernel, silent, store=host.images.store)

    assert second.archive.stat().st_size
