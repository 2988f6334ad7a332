"""What to give in place of options and commands that Docker, QEMU or virtme-ng have."""

from typing import Final

_CONFINED: Final = "a guest has a kernel of its own, which gives it all rights there; leave it out"
_HARDWARE: Final = "a guest reaches no device of the host; leave it out"
_NETWORK: Final = "give --net none, user or tap:NAME"
_DISK: Final = "give --disk FILE, --disk FILE,ro or --disk FILE,snapshot"
_KVM: Final = "Ringlet needs no accelerator; leave it out"
_USER: Final = "commands run as root; give a command such as su nobody -s /bin/sh -c COMMAND"
_SCREEN: Final = "a guest has no screen, only serial ports; leave it out"

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
    "--rodir": "give -v HOST:GUEST:ro",
    "--rw": "give -v HOST:GUEST for each directory that the guest may write",
    "--rwdir": "give -v HOST:GUEST",
    "--pwd": "give -w DIR",
}
"""Options of others, and what to give instead."""

COMMANDS: Final = {
    "attach": "give ringlet logs -f NAME to see its console, or ringlet shell NAME",
    "build": "give ringlet image build, pull or import",
    "create": "give ringlet run -d --name NAME GUEST",
    "images": "give ringlet image ls",
    "inspect": "give ringlet ps -a --json",
    "pause": "use the Python interface, ringlet.Machine",
    "pull": "give ringlet image pull",
    "restart": "give ringlet rm -f NAME, and ringlet run -d --name NAME GUEST",
    "rmi": "give ringlet image rm",
    "start": "a machine runs once; give ringlet run -d --name NAME GUEST",
    "wait": "give ringlet logs -f NAME, which ends with the machine",
}
"""Commands that are reserved, or that others have, and what to do instead."""


def instead_of(option: str) -> str:
    """Return what to give instead of an option of another program; empty if it is nobody's."""
    return OPTIONS.get(option, "")
