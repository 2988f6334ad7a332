"""What to give in place of options and commands that Docker, QEMU or virtme-ng have."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ringlet.errors import ConfigError

_CONFINED: Final = "a guest has a kernel of its own, which gives it all rights there; leave it out"
_HARDWARE: Final = "a guest reaches no device of the host; leave it out"
_NETWORK: Final = "give --net none, user or tap:NAME"
_DISK: Final = "give --disk FILE, --disk FILE,ro or --disk FILE,snapshot"
_KVM: Final = "Ringlet needs no accelerator; leave it out"
_USER: Final = "commands run as root; give a command such as su nobody -s /bin/sh -c COMMAND"
_SCREEN: Final = "a guest has no screen, only serial ports; leave it out"
_JSON: Final = "give --json, and read that with jq or another program"
_NO_TIMES: Final = "the log has no times; give --tail N for its last lines"
_LEFT_BEHIND: Final = "give sh -c 'COMMAND >/tmp/log 2>&1 &' as the command"
_IN_IMAGES: Final = "images are not made of containers; "

OPTIONS: Final = {
    # Docker's
    "--add-host": "write to the guest's /etc/hosts in the command",
    "--cap-add": _CONFINED,
    "--cap-drop": _CONFINED,
    "--device": _HARDWARE,
    "--dns": "write to the guest's /etc/resolv.conf in the command",
    "--entrypoint": "give the command after the guest's name",
    "--gpus": _HARDWARE,
    "--hostname": "run hostname NAME in the command",
    "--init": "a guest always has an init; leave it out",
    "--ipc": _CONFINED,
    "--label": "give --name NAME",
    "--mount": "give -v HOST:GUEST, or -v HOST:GUEST:ro",
    "--network": _NETWORK,
    "--pid": _CONFINED,
    "--platform": "guests are x86-64; leave it out",
    "--privileged": _CONFINED,
    "--pull": "what is in the cache is used; ringlet cache prune makes the next run fetch it",
    "--read-only": "a guest's changes are dropped when it ends; leave it out",
    "--restart": "run it again from a shell loop or a systemd unit",
    "--security-opt": _CONFINED,
    "--shm-size": "the size of RAM decides; give --memory",
    "--tmpfs": "a guest has its temporary files in RAM anyway; leave it out",
    "--ulimit": _CONFINED,
    "--user": _USER,
    "-u": _USER,
    "--volumes-from": "give each directory with -v HOST:GUEST",
    "-P": "give each port with -p HOST:GUEST",
    # multipass's and virt-install's
    "--cloud-init": "give --user-data FILE",
    # QEMU's
    "-accel": _KVM,
    "--accel": _KVM,
    "-append": "give --append",
    "-bios": "guests start without firmware; give --kernel",
    "-boot": "guests start without firmware; give --kernel",
    "-cdrom": "give --disk FILE,ro",
    "-chardev": "give --console stdio, file:PATH or none",
    "-cpu": "the guest's processor is x86-64-v3 as ringlet doctor shows it; leave it out",
    "-daemonize": "give -d",
    "-device": _DISK.replace("give", "for a disk give", 1) + "; for a network --net",
    "-display": _SCREEN,
    "-drive": _DISK,
    "-enable-kvm": _KVM,
    "--enable-kvm": _KVM,
    "-fsdev": "give -v HOST:GUEST",
    "-gdb": "give --gdb [HOST]:PORT or --gdb unix:PATH",
    "-hda": _DISK,
    "-hdb": _DISK,
    "-initrd": "give --initrd",
    "-kernel": "give --kernel",
    "-loadvm": "snapshots are not supported yet",
    "-M": "there is one machine, a PC; leave it out",
    "-machine": "there is one machine, a PC; leave it out",
    "-mem-path": "give --memory",
    "-monitor": "gdb's monitor has some commands; give --gdb :1234",
    "-name": "give --name",
    "-net": _NETWORK,
    "-netdev": _NETWORK,
    "-nic": _NETWORK,
    "-no-reboot": "give --no-reboot",
    "-nodefaults": "leave it out",
    "-nographic": _SCREEN,
    "-pidfile": "give -d --name NAME",
    "-qmp": "use the Python interface, ringlet.Machine",
    "-serial": "give --console stdio, file:PATH or none",
    "-smp": "give -c 1, the only number so far",
    "-snapshot": "give --disk FILE,snapshot",
    "-usb": "a guest has no USB; leave it out",
    "-vga": _SCREEN,
    "-virtfs": "give -v HOST:GUEST",
    "-vnc": _SCREEN,
    # virtme-ng's
    "--cpu": "give -c",
    "--exec": "give the command after the guest's name",
    "--kdir": "give --kernel DIR/arch/x86/boot/bzImage",
    "--rodir": "give -v HOST:GUEST:ro",
    "--rw": "give -v HOST:GUEST for each directory that the guest may write",
    "--rwdir": "give -v HOST:GUEST",
    "--pwd": "give -w DIR",
}
"""Options of `run` that others have, and what to give instead."""

OTHER_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "exec": {
        "-d": _LEFT_BEHIND,
        "--detach": _LEFT_BEHIND,
        "--detach-keys": "Ctrl-A x leaves a command; leave it out",
        "--env-file": "give each variable with -e NAME=VALUE",
        "--privileged": _CONFINED,
    },
    "logs": {
        "--details": "give ringlet ps -a --json for what is known of a machine",
        "--since": _NO_TIMES,
        "--timestamps": _NO_TIMES,
        "-t": _NO_TIMES,
        "--until": _NO_TIMES,
    },
    "ps": {
        "-f": _JSON,
        "--filter": _JSON,
        "--format": _JSON,
        "-l": _JSON,
        "--last": _JSON,
        "--latest": _JSON,
        "-n": _JSON,
        "--no-trunc": _JSON,
        "-s": "give ringlet exec NAME df for what its file systems hold",
        "--size": "give ringlet exec NAME df for what its file systems hold",
    },
    "cp": {
        "-a": "modes, times and links are always kept; leave it out",
        "--archive": "modes, times and links are always kept; leave it out",
        "-L": "name the file that the link leads to",
        "--follow-link": "name the file that the link leads to",
        "-q": "nothing is printed; leave it out",
        "--quiet": "nothing is printed; leave it out",
        "-r": "directories are copied with all that is in them; leave it out",
    },
    "stop": {"-s": "give ringlet kill NAME to cut the power"},
    "kill": {
        "-s": "it cuts the machine's power; for a process give ringlet exec NAME kill",
        "--signal": "it cuts the machine's power; for a process give ringlet exec NAME kill",
    },
    "rm": {
        "-v": "a machine has no volumes; leave it out",
        "--volumes": "a machine has no volumes; leave it out",
    },
}
"""Options of Docker for other commands, and what to give instead."""

COMMANDS: Final = {
    "attach": "give ringlet logs -f NAME to see its console, or ringlet shell NAME",
    "build": "give ringlet image build, pull or import",
    "commit": _IN_IMAGES + "give ringlet run --disk FILE, whose changes stay",
    "container": "leave the word out, as in ringlet ps",
    "create": "give ringlet run -d --name NAME GUEST",
    "diff": "give ringlet exec NAME, and compare there",
    "events": "give ringlet ps -a --json",
    "export": "give ringlet cp NAME:/PATH DIRECTORY",
    "history": "give ringlet image ls",
    "images": "give ringlet image ls",
    "import": "give ringlet image import",
    "info": "give ringlet doctor, or ringlet cache ls",
    "inspect": "give ringlet ps -a --json",
    "load": "give ringlet image import FILE",
    "login": "a registry that wants one: fetch with skopeo to a directory, and give oci:DIR",
    "network": "a network is made by run: give ringlet run --net user or tap:NAME",
    "pause": "use the Python interface, ringlet.Machine",
    "port": "give ringlet ps, which lists the ports",
    "pull": "give ringlet image pull",
    "push": "images are only fetched; give skopeo or docker the image's source",
    "rename": "a name stays; give ringlet run --name NAME",
    "restart": "give ringlet rm -f NAME, and ringlet run -d --name NAME GUEST",
    "rmi": "give ringlet image rm",
    "save": "give others what the image was made of, which ringlet image import takes",
    "search": "give ringlet image pull docker://NAME",
    "start": "a machine runs once; give ringlet run -d --name NAME GUEST",
    "stats": "give ringlet exec NAME top -b -n 1, or ringlet run --stats",
    "system": "give ringlet cache ls or ringlet cache prune",
    "tag": "give ringlet image import SOURCE --name NAME",
    "top": "give ringlet exec NAME ps",
    "update": "a machine keeps its size; give ringlet run --memory SIZE",
    "version": "give ringlet --version",
    "volume": "a volume is a directory of the host; give ringlet run -v HOST:GUEST",
    "wait": "give ringlet logs -f NAME, which ends with the machine",
}
"""Commands that are reserved, or that others have, and what to do instead."""


def instead_of(option: str) -> str:
    """Return what to give instead of an option of another program; empty if it is nobody's."""
    return OPTIONS.get(option, "")


def require_own_options(
    command: str, arguments: Sequence[str], own: Mapping[str, bool], *, ends: bool = False
) -> None:
    """Raise ConfigError for an option of Docker's `command` that Ringlet's has not.

    `own` has Ringlet's options, and whether each takes a value.  With `ends`, options end at the
    first other word.
    """
    others = OTHER_OPTIONS.get(command, {})
    skip = False
    for argument in arguments:
        if skip:
            skip = False
            continue
        if argument == "--" or (ends and not argument.startswith("-")):
            return
        for name, has_value in _named(argument, own):
            if name not in own and name in others:
                raise ConfigError(f"{name}: {others[name]}")
            skip = own.get(name, False) and not has_value


def _named(argument: str, own: Mapping[str, bool]) -> Iterator[tuple[str, bool]]:
    """Yield the options in `argument`, and whether a value follows in it; -it has two."""
    if argument.startswith("--"):
        name, equals, _ = argument.partition("=")
        yield name, bool(equals)
    elif argument.startswith("-"):
        for place, letter in enumerate(argument[1:], 2):
            yield f"-{letter}", place < len(argument)
            if own.get(f"-{letter}", False):
                return
