"""Where the options of `ringlet run` end, and the options of other programs."""

import re
from typing import Any

import pytest

from ringlet.cli.arguments import arranged
from ringlet.cli.elsewhere import OPTIONS, instead_of
from ringlet.cli.other_commands import COMMANDS, OTHER_OPTIONS, require_own_options
from ringlet.cli.run import RunCommand
from ringlet.cli.typed import names_given
from ringlet.errors import ConfigError

TAKES_VALUE = {
    "-m": True, "--memory": True, "--root": True, "-i": False, "-t": False, "--stats": False,
    "--kernel": True, "--no-reboot": False, "-v": True,
}  # fmt: skip


def split(line: str) -> str:
    return " ".join(arranged(line.split(), TAKES_VALUE.get))


@pytest.mark.parametrize(
    ("given", "arranged"),
    [
        ("debian", "-- debian"),
        ("debian uname -a", "-- debian uname -a"),
        ("debian -- uname -a", "-- debian uname -a"),
        ("-m 1G debian ls -m", "-m 1G -- debian ls -m"),
        ("-m1G debian ls", "-m1G -- debian ls"),
        ("--memory=1G debian ls", "--memory=1G -- debian ls"),
        ("-it debian sh -i", "-it -- debian sh -i"),
        ("-itm 1G debian ls", "-itm 1G -- debian ls"),
        ("debian --stats -m 1G ls -l", "--stats -m 1G -- debian ls -l"),
        ("debian --stats -- ls -- -l", "--stats -- debian ls -- -l"),
        ("--root / -m 1G sh -c ls", "--root / -m 1G -- sh -c ls"),
        ("--root=/ -- sh -c ls", "--root=/ -- sh -c ls"),
        ("-- debian ls", "-- debian ls"),
        ("-- debian -- -ls", "-- debian -ls"),
        ("--stats", "--stats --"),
        ("debian -m", "-m"),
        ("debian ls --memory", "-- debian ls --memory"),
        ("-m -smp debian", "-m -smp -- debian"),
        ("--unknown debian", "--unknown -- debian"),
        ("", "--"),
        ("- debian", "-- - debian"),
        ("-no-reboot -kernel FILE debian ls", "--no-reboot --kernel FILE -- debian ls"),
        ("-kernel=FILE debian -stats ls", "--kernel=FILE --stats -- debian ls"),
        ("debian ls -kernel", "-- debian ls -kernel"),
        ("-v/a:/b debian ls", "-v/a:/b -- debian ls"),
    ],
)
def test_options_end_where_the_command_begins(given: str, arranged: str) -> None:
    assert split(given) == arranged


@pytest.mark.parametrize("line", ["-smp 4 debian", "debian -smp 4 ls", "--gpus=all debian"])
def test_options_of_others_are_named(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^(-smp|--gpus): "):
        split(line)


@pytest.mark.parametrize("argument", ["-vv", "-vvv", "-virtiofsd"])
def test_v_that_is_no_share_is_answered(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"^{argument}: -v takes HOST:GUEST, .*; --verbose "):
        split(f"{argument} debian")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("-itm 1G --stats -- debian -v", ["-i", "-t", "-m", "--stats"]),
        ("-m --stats --root=/ -v/a:/b --", ["-m", "--root", "-v"]),
        ("--memory", ["--memory"]),
    ],
)
def test_names_of_options_are_those_that_were_typed(line: str, names: list[str]) -> None:
    assert names_given(line.split(), TAKES_VALUE) == names


def test_a_command_may_have_any_option() -> None:
    assert split("debian qemu -smp 4") == "-- debian qemu -smp 4"


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_advice_is_short_and_begins_with_no_capital(option: str) -> None:
    advice = instead_of(option)

    assert 6 < len(advice) < 100
    assert not advice.endswith(".")
    assert "\n" not in advice


@pytest.mark.parametrize(
    "option",
    ["--cap-add", "--gpus", "-smp", "-hda", "-cdrom", "-enable-kvm", "-nographic", "--entrypoint",
     "-u", "--privileged", "--device", "-serial", "-monitor", "-accel", "-cpu", "-drive", "-netdev",
     "--pwd", "--rwdir", "--overlay-rwdir", "--dry-run", "--force-9p", "--kimg", "--qemu-opts",
     "-l", "-a", "--cidfile", "--cpu-shares", "--memory-swap", "--sysctl", "-blockdev", "-smbios",
     "-rtc", "-object", "-virtiofs", "--mods", "--dns-search", "--stop-timeout"],
)  # fmt: skip
def test_well_known_options_are_in_the_table(option: str) -> None:
    assert instead_of(option)


def command_of(path: str) -> Any:
    import typer

    from ringlet.cli.app import make_app

    found: Any = typer.main.get_command(make_app())
    for word in path.split():
        found = found.commands[word]
    return found


def own_options(command: str = "run") -> set[str]:
    found = command_of(command)
    assert isinstance(found, RunCommand) == (command == "run")
    return {name for parameter in found.params for name in parameter.opts}


def test_no_option_of_ours_is_in_the_table() -> None:
    own = own_options()

    assert {"-v", "-p", "-e", "-w", "-m", "-c", "-s", "-S", "-d", "-i", "-t", "--rm"} <= own
    assert own & set(OPTIONS) == set()


def test_advice_names_options_that_there_are() -> None:
    own = own_options()
    named = {
        option
        for advice in OPTIONS.values()
        for option in re.findall(r"give (--?[\w-]+)", advice)
    }

    assert named - own == set()


@pytest.mark.parametrize("command", sorted(OTHER_OPTIONS))
def test_no_option_of_our_other_commands_is_in_the_table(command: str) -> None:
    assert own_options(command) & set(OTHER_OPTIONS[command]) == set()
    for advice in OTHER_OPTIONS[command].values():
        assert 6 < len(advice) < 100


@pytest.mark.parametrize(
    ("line", "ends"),
    [("box ls -d", True), ("-w -d box ls", True), ("-- -d", False), ("-w/d box", False),
     ("-tw -d box", True), ("- -t box", False)],
)
def test_words_that_are_no_options_are_let_through(line: str, ends: bool) -> None:
    require_own_options("exec", line.split(), {"-w": True, "-t": False}, ends=ends)


@pytest.mark.parametrize(
    "line",
    ["-d box ls", "-t -d box", "--detach=true box", "-w /x -d box", "-td box", "-w/x -d box"],
)
def test_option_of_dockers_command_is_answered(line: str) -> None:
    with pytest.raises(ConfigError, match=r"^(-d|--detach): give sh -c"):
        require_own_options("exec", line.split(), {"-w": True, "-t": False}, ends=True)


@pytest.mark.parametrize("group", sorted(COMMANDS))
def test_commands_of_others_get_short_advice_and_are_none_of_ours(group: str) -> None:
    own = set(command_of(group).commands)

    assert own
    assert own & set(COMMANDS[group]) == set()
    for advice in COMMANDS[group].values():
        assert 6 < len(advice) < 100


@pytest.mark.parametrize("group", sorted(COMMANDS))
def test_advice_about_commands_names_commands_that_there_are(group: str) -> None:
    for advice in COMMANDS[group].values():
        for words in re.findall(r"ringlet ((?:image |cache )?[a-z]+)", advice):
            command_of(words)
