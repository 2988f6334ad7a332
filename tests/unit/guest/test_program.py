"""The agent's program: how it is built, and that both sides have the same numbers."""

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from ringlet.guest import PROGRAM, protocol
from tests.unit.control.agent.native import native_agent, start
from tests.unit.guest.build import SOURCE, build_as_meson, build_with_sanitizers

SIZE = 64 << 10


def header() -> dict[str, int]:
    text = (SOURCE / "protocol.h").read_text()
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]\w*) = (\d+)\b", text)}


@pytest.mark.parametrize(
    "name", ["VERSION", "HEADER_SIZE", "MAX_PAYLOAD", "MAX_CHANNELS", "INPUT_WINDOW",
             "ENTRY_SIZE", "MAX_TEXT"],
)  # fmt: skip
def test_limits_are_the_same_on_both_sides(name: str) -> None:
    assert header()[name] == getattr(protocol, name)


@pytest.mark.parametrize(
    ("members", "prefix"),
    [
        (protocol.Kind, ""), (protocol.Operation, "OP_"), (protocol.Tag, "T_"),
        (protocol.Stage, "S_"), (protocol.Power, "P_"),
        ([flag for flag in protocol.Flag if flag], "F_"),
    ],
    ids=["kinds", "operations", "tags", "stages", "ends", "flags"],
)  # fmt: skip
def test_numbers_are_the_same_on_both_sides(members: object, prefix: str) -> None:
    theirs = header()
    ours = {f"{prefix}{member.name}": int(member) for member in members}  # type: ignore[attr-defined]

    assert ours == {name: theirs.get(name) for name in ours}
    if prefix:
        assert {name for name in theirs if name.startswith(prefix)} == set(ours)


def test_checkouts_agent_is_small_and_needs_nothing(tmp_path: Path) -> None:
    program = build_as_meson(tmp_path)
    data = program.read_bytes()

    assert len(data) < SIZE
    assert data[:5] == b"\x7fELF\x02"
    (table,) = struct.unpack_from("<Q", data, 0x20)
    size, count = struct.unpack_from("<HH", data, 0x36)
    kinds = [struct.unpack_from("<II", data, table + i * size) for i in range(count)]
    assert {kind for kind, _ in kinds} <= {1, 4, 0x6474E550, 0x6474E551, 0x6474E553}  # no loader
    stack = [flags for kind, flags in kinds if kind == 0x6474E551]
    assert [flags & 1 for flags in stack] == [0]
    with native_agent(program) as agent:
        assert agent.run("echo $0").stdout == "/bin/sh\n"


def test_packages_agent_is_the_same_size_of_program() -> None:
    assert PROGRAM.stat().st_size < SIZE


@pytest.mark.parametrize("arguments", [[], ["vsock:x"], ["fd:"], ["fd:99999999999"], ["a", "b"]])
def test_wrong_arguments_are_told(arguments: list[str]) -> None:
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False,
                          timeout=20)  # fmt: skip

    assert done.returncode == 2
    assert done.stderr == "usage: agent PATH | vsock:PORT | fd:NUMBER\n"


def test_agent_ends_with_its_inherited_stream() -> None:
    process, stream = start()
    stream.close()

    assert process.wait(20) == 0
    process.communicate()


def test_whole_agent_under_sanitizers(tmp_path: Path) -> None:
    program = build_with_sanitizers(tmp_path, harmless=False)
    room = tmp_path / "room"
    (room / "tree" / "sub").mkdir(parents=True)
    (room / "tree" / "sub" / "file").write_bytes(bytes(300_000))
    (room / "tree" / "link").symlink_to("sub")

    with native_agent(program) as agent:
        data = bytes(range(256)) * 4000
        assert agent.run(["cat"], input=data, text=False).stdout == data
        assert "24 80" in agent.run("stty size; cat", tty=True, input="x\n").stdout
        assert agent.run("exit 3").exit_code == 3
        assert agent.run(["id", "-u"], user=f"{os.getuid()}:{os.getgid()}").exit_code == 0
        agent.files.copy_in(room / "tree", room / "in")
        agent.files.copy_out(room / "in", room / "out")
        agent.files.write(room / "file", data, mode=0o600)
        assert agent.files.read(room / "file") == data
        assert len(agent.files.list(room / "out")) == 2
        agent.files.mkdir(room / "a/b/c", parents=True)
        agent.files.symlink(room / "link", "a")
        agent.files.rename(room / "link", room / "renamed")
        agent.files.remove(room, recursive=True)
        assert not agent.files.exists(room)
        agent.sync()
        assert agent.info().agent_pid > 0
