"""Makes the root file system of Debian: a disk image, unpacked here and set up by a guest.

The host unpacks the packages into an image (`ringlet.images.dpkg`), which takes no privileges.  The
packages' scripts need to run as root on a kernel: a guest does that once (`setup.sh`), started by a
function that the caller gives.
"""

import hashlib
import importlib.resources
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.dpkg import Unpacker
from ringlet.images.ext4 import Ext4Writer
from ringlet.images.release import Release
from ringlet.images.tree import Tree, directory, symlink

SIZE: Final = 8 << 30
"""The size of the disk that a guest sees; the image takes the room of what is in it."""
PACKAGES: Final = tuple(
    "apt base-files base-passwd bash bsdutils ca-certificates coreutils dash dbus debianutils "
    "diffutils dpkg e2fsprogs findutils grep gzip hostname init-system-helpers iproute2 "
    "iputils-ping kmod less libc-bin login mount ncurses-base ncurses-bin netbase "
    "passwd perl-base procps sed systemd systemd-resolved systemd-sysv sysvinit-utils tar tzdata "
    "udev usr-is-merged util-linux".split()
)
"""Debian's essential packages, systemd, apt and what a person at a shell expects."""
SETUP: Final = "ringlet-setup"
_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_DIRECTORIES: Final = ("boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "run", "srv",
                       "sys", "usr", "var")  # fmt: skip
_SOURCES: Final = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {codename} {codename}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: {codename}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
# What a machine without hardware, or one of many that start from one image, has no use for.
_MASKED: Final = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service",
    "sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "systemd-firstboot.service",
    "systemd-network-generator.service", "systemd-networkd-wait-online.service",
    "serial-getty@ttyS0.service", "systemd-pstore.service", "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-repart.service", "systemd-sysusers.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
)  # fmt: skip
_NO_GENERATORS: Final = ("bless-boot", "debug", "gpt-auto", "hibernate-resume", "rc-local")
# The initial RAM disk has loaded the network's driver by then.
_WITH_NETWORK: Final = "[Unit]\nConditionPathExistsGlob=/sys/class/net/e*\n"
_FILES: Final = {
    "etc/fstab": "",
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/machine-id": "",
    "etc/systemd/network/80-ringlet.network": (
        "[Match]\nName=e*\n\n[Link]\nRequiredForOnline=no\n\n"
        "[Network]\nDHCP=yes\nLLMNR=no\nMulticastDNS=no\n\n[DHCPv4]\nClientIdentifier=mac\n"
    ),
    "etc/systemd/system/systemd-networkd.service.d/ringlet.conf": _WITH_NETWORK,
    "etc/systemd/system/systemd-networkd.socket.d/ringlet.conf": _WITH_NETWORK,
    "etc/systemd/system/systemd-resolved.service.d/ringlet.conf": _WITH_NETWORK,
    # serial-getty would wait until udev has seen to all devices, which takes half of the start.
    "etc/systemd/system/console-getty.service.d/autologin.conf": (
        "[Service]\nExecStart=\n"
        "ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,9600 - $TERM\n"
    ),
    "etc/systemd/journald.conf.d/ringlet.conf": "[Journal]\nStorage=volatile\n",
    "etc/systemd/system.conf.d/ringlet.conf": "[Manager]\nDefaultTimeoutStopSec=10s\n",
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}

_LAYOUT: Final = 1
"""Changes with what the code of this module and `ringlet.images.dpkg` makes of the packages."""


def recipe(packages: Sequence[str], release: Release) -> str:
    """Return a name of what `write_root` makes of these packages, whatever their versions."""
    own = (_LAYOUT, SIZE, _FILES, _MASKED, _NO_GENERATORS, _SOURCES, _setup(), str(release))
    return f"recipe:{hashlib.sha256(repr((own, tuple(packages))).encode()).hexdigest()[:32]}"


def write_root(
    path: Path, debs: Sequence[Path], release: Release, update: Callable[[str], None]
) -> None:
    """Unpack `debs` to a new image at `path`, which then has to be set up.  Raises ImageError."""
    writer = Ext4Writer(path, SIZE, label=release.codename)
    try:
        tree = Tree()
        for name in _DIRECTORIES:
            tree.add(name, directory())
        tree.add("root", directory(0o700))
        tree.add("tmp", directory(0o1777))
        for name in _MERGED:
            tree.add(f"usr/{name}", directory())
            tree.add(name, symlink(f"usr/{name}"))
        unpacker = Unpacker(tree, writer)
        for number, deb in enumerate(debs):
            update(f"unpacking {deb.name.partition('_')[0]}, {number + 1} of {len(debs)}")
            unpacker.add(deb)
        unpacker.finish()
        _add_own_files(tree, writer, unpacker, release)
        writer.finish(tree)
    finally:
        writer.close()


def _add_own_files(tree: Tree, writer: Ext4Writer, unpacker: Unpacker, release: Release) -> None:
    for name, text in _FILES.items():
        unpacker.file(name, text.encode(), 0o755 if name.startswith("usr/sbin") else 0o644)
    unpacker.file(
        "etc/apt/sources.list.d/debian.sources", _SOURCES.format(codename=release.codename).encode()
    )
    for unit in _MASKED:
        tree.add(f"etc/systemd/system/{unit}", symlink("/dev/null"))
    # logind starts when something asks for it, such as `systemctl poweroff`.
    logind = "multi-user.target.wants/systemd-logind.service"
    tree.add(f"etc/systemd/system/{logind}", symlink("/dev/null"))
    for name in _NO_GENERATORS:
        link = symlink("/dev/null")
        tree.add(f"etc/systemd/system-generators/systemd-{name}-generator", link)
    # The scripts of other packages need the users that base-passwd's script makes from these.
    for name in ("passwd", "group"):
        node = tree.find(f"usr/share/base-passwd/{name}.master")
        if node is None:
            raise ImageError(f"base-passwd has no {name}.master; this release is not known")
        unpacker.file(f"etc/{name}", writer.load(node.extents, node.size))
    unpacker.file(SETUP, _setup(), 0o755)


def _setup() -> bytes:
    return importlib.resources.files("ringlet.images").joinpath("setup.sh").read_bytes()
