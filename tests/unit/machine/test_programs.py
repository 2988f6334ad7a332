"""The programs and libraries that some guests need."""

import pytest

from ringlet.machine import host, programs
from ringlet.machine.host import Finding, Verdict

NAMES = {
    "apt-get", "gpgv", "passt", "libslirp", "qemu-storage-daemon", "zstandard", "gcc", "gdb",
    "qemu-system-x86_64",
}  # fmt: skip


def found() -> dict[str, Finding]:
    return {finding.name: finding for finding in host.examine()}


def test_all_that_the_documents_name_are_listed() -> None:
    listed = found()

    assert set(listed) >= NAMES
    assert all(listed[name].verdict is Verdict.INFO for name in NAMES)


def test_what_a_guest_may_need_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(programs, "_LIBSLIRP", "libnone.so.0")
    listed = found()

    assert all(listed[name].text.startswith("not installed (") for name in NAMES)
    for name, words in (
        ("gpgv", "install gpgv"), ("passt", "apt-get install passt"), ("libslirp", "libslirp0"),
        ("qemu-storage-daemon", "qemu-utils"), ("zstandard", "pip install zstandard"),
    ):  # fmt: skip
        assert words in listed[name].remedy


def test_what_is_there_needs_no_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")

    assert found()["passt"].text == "/usr/bin/passt (--net user)"
    assert not found()["passt"].remedy
