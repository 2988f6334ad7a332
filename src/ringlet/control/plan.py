"""Finds what a machine starts from: its kernel, its root file system, its initial RAM disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet import config
from ringlet.config import LinuxConfig
from ringlet.control.parts import check_sockets
from ringlet.control.spec import (
    Called,
    MachineSpec,
    in_python,
    require_supported,
    share_tag,
)
from ringlet.control.words import BUSYBOX
from ringlet.devices.backends.disks.chain import describe_image
from ringlet.disk_spec import Access, Below, DiskSpec, Format
from ringlet.errors import ConfigError, ProgramError
from ringlet.guest import agent_program
from ringlet.images.arguments import with_huge_pages
from ringlet.images.building import Runner, fetch_modules, find_debian
from ringlet.images.busybox import find_busybox
from ringlet.images.catalog import Image, Images
from ringlet.images.debian import CachedKernel, fetch_kernel, kernel_of
from ringlet.images.imports import find_image
from ringlet.images.initramfs import (
    Address,
    Command,
    Root,
    Serve,
    Share,
    Surroundings,
    Task,
    make_initramfs,
)
from ringlet.images.installed import installed_modules
from ringlet.images.release import AMD64, I386
from ringlet.images.seed import seed_of
from ringlet.machine.loading import read_fitting, starts_linux
from ringlet.network_config import NetMode

# The kernel resets the machine at once after a panic, and that ends the run.
_PANIC: Final = "panic=-1"
DEFAULT_APPEND: Final = f"console=ttyS0 {_PANIC}"
"""The command line of a user's own Linux kernel.

Without it such a kernel prints nothing anywhere, and hangs for ever after a panic.
"""

ROOT_TAG: Final = "ringlet-root"
BUS_MODULES: Final = ("virtio_pci",)
DISK_MODULES: Final = ("virtio_blk", "ext4")
AGENT_MODULES: Final = ("virtio_console",)
SHARE_MODULES: Final = ("virtiofs",)
NET_MODULES: Final = ("virtio_net",)
SEED_MODULES: Final = (*DISK_MODULES, "isofs")
VSOCK_MODULES: Final = ("vmw_vsock_virtio_transport",)

_SERVE: Final = Serve()
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SharedDirectory:
    """A directory of the host and the virtio-fs tag by which the guest mounts it."""

    source: Path
    tag: str
    read_only: bool
    delegated: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a machine starts from; `name` is its kernel's, for the user.

    `disks` are all disks in their order, `shares` all shared directories.  `image` is kept in the
    store while the machine runs.  `agent` says that the guest starts Ringlet's agent, and `boots`
    that its own init becomes process 1.  `seed` is the last disk, if it is not empty.
    `make_initrd` returns the initial RAM disk for a guest with this address.
    """

    kernel: Path
    memory: int
    append: str
    name: str
    make_initrd: Callable[[Address | None], Path | bytes | None]
    disks: tuple[DiskSpec, ...] = ()
    shares: tuple[SharedDirectory, ...] = ()
    image: Image | None = None
    agent: bool = False
    boots: bool = False
    seed: bytes = b""

    def config(self, address: Address | None = None) -> LinuxConfig:
        """Return the configuration of a machine whose network tells it `address`."""
        return LinuxConfig(self.kernel, self.memory, self.make_initrd(address), self.append)


def _require_heeded(spec: MachineSpec, called: Called) -> None:
    """Refuse what the kernel leaves to an initial RAM disk, and Ringlet's does not heed."""
    for word in (spec.append or "").split():
        if word.startswith(("root=", "init=")):
            raise ConfigError(
                f"{called(config.APPEND)} {word}: has no effect on a guest whose root Ringlet "
                f"mounts; leave it out, or give {called(config.KERNEL)} and {called(config.INITRD)}"
                " without a guest"
            )


def check_files(spec: MachineSpec, called: Called = in_python) -> None:
    """Check the files that the user named, before anything is fetched, opened or written.

    Raises ConfigError, DiskError and ProgramError.
    """
    require_supported(spec, called)
    if not (spec.guest or spec.kernel or spec.image or spec.root):
        raise ConfigError("nothing to run; for example: ringlet run debian")
    if spec.vsock is not None:
        check_sockets(spec.vsock, spec.mounts, called(config.VSOCK))
    if spec.guest or spec.image or spec.root:
        _require_heeded(spec, called)
    for disk in spec.disks:
        describe_image(disk.path, disk.format, disk.below)
    if spec.kernel is not None:
        read_fitting(spec.kernel, spec.memory, _own(spec), spec.initrd)
        if (spec.guest or spec.image or spec.root) and not starts_linux(spec.kernel):
            raise ProgramError(
                f"{spec.kernel}: is a Multiboot kernel, but Ringlet's guests need Linux; leave out "
                "the guest, or give Linux's bzImage or vmlinux"
            )


def plan(
    spec: MachineSpec,
    task: Task | None,
    *,
    run_setup: Runner,
    otherwise: Task = _SERVE,
    commands: bool = True,
    quiet: bool = True,
    window: tuple[int, int] = (0, 0),
    progress: Progress = lambda text: None,
    called: Called = in_python,
) -> Plan:
    """Return what `spec` starts from; fetch or build what is not in the cache.

    `task` is for a guest with a name, an image or a root; None: its own init becomes process 1, or
    in an image that has none, `otherwise` is the task.  `run_setup` runs the guest that sets a new
    image up.  With `commands` the guest has an agent, if its kernel is known to have the driver;
    on another of the user's own a command has one, which starts if that kernel has it.  With
    `quiet`, the kernel prints errors alone.  `window` has the rows and columns of the console.
    Raises ConfigError, ProgramError and ImageError.
    """
    check_files(spec, called)
    if not (spec.guest or spec.image or spec.root):
        return _plain(spec)
    own = spec.kernel
    kernel = fetch_kernel(spec.package, progress) if own is None else kernel_of(own)
    path = own or (kernel.vmlinuz if kernel is not None else None)
    assert path is not None
    name = f"Linux {kernel.release}" if kernel is not None else path.name
    words = ["console=ttyS0", *(["quiet"] if quiet else []), _PANIC, spec.append or ""]
    append = with_huge_pages(" ".join(words).rstrip(), path)
    guest = _Guest(
        spec, task, otherwise, kernel, progress, run_setup, commands=commands, window=window
    )
    read_fitting(path, spec.memory, append, guest.make_initrd(None))
    return Plan(
        path, spec.memory, append, name, guest.make_initrd, guest.disks, guest.shares,
        guest.image, guest.agent, guest.task is None, _seed(spec),
    )  # fmt: skip


class _Guest:
    """A guest whose initial RAM disk is Ringlet's own."""

    def __init__(
        self,
        spec: MachineSpec,
        task: Task | None,
        otherwise: Task,
        kernel: CachedKernel | None,
        progress: Progress,
        run_setup: Runner,
        *,
        commands: bool,
        window: tuple[int, int],
    ) -> None:
        self._window = window
        narrow = kernel is not None and kernel.architecture != AMD64
        self._busybox = find_busybox(progress)
        # Its applets are listed by the host's own, as the host may run no 32-bit programs.
        self._narrow_busybox = find_busybox(progress, architecture=I386) if narrow else None
        self._archive = b""
        self._modules: tuple[str, ...] = ()
        self._root: Root | None = None
        self._made: tuple[Address | None, bytes] | None = None
        if narrow and (spec.image or spec.guest not in ("", BUSYBOX)):
            raise ConfigError(
                f"{spec.package}: this kernel runs 32-bit programs alone, and the image has 64-bit "
                "ones; give a package for amd64"
            )
        self.image = _image(spec, progress, run_setup)
        bootable = self.image is None or self.image.settings.boots
        self.task = task if task is not None or bootable else otherwise
        self.shares = _shares(spec)
        found = fetch_modules(kernel, progress, store=Images().store) if kernel else None
        own = installed_modules(spec.kernel) if spec.kernel is not None and not kernel else None
        # A kernel of the user's own may lack the driver of its port: only commands do without.
        has_port = kernel is not None or (own is not None and all(map(own.has, AGENT_MODULES)))
        # The agent is a 64-bit program; a command does without.
        has_port = has_port and not narrow
        self.agent = commands and (has_port or isinstance(self.task, Command))
        disks = [] if self.image is None else [base_disk(self.image)]
        disks += spec.disks
        if found is not None or own is not None:
            wanted = [*AGENT_MODULES] if self.agent else []
            wanted += NET_MODULES if spec.net.mode is not NetMode.NONE else ()
            wanted += SHARE_MODULES if self.shares else ()
            wanted += DISK_MODULES if disks else ()
            wanted += SEED_MODULES if spec.user_data else ()
            wanted += VSOCK_MODULES if spec.vsock is not None else ()
            self._modules = (*BUS_MODULES, *wanted) if wanted else ()
            if wanted and found is not None:
                self._archive = found.archive.read_bytes()
            elif wanted and own is not None:
                self._archive = own.boot_archive()
        if self.image is not None or spec.root is not None:
            modules_disk = ""
            if found is not None:
                disks.append(DiskSpec(found.disk, Access.READ_ONLY, Format.RAW))
                modules_disk = disk_device(len(disks) - 1)
            self._root = _root(spec, self.image, boots=self.task is None, modules_disk=modules_disk)
        self.disks = tuple(disks)
        self._mounts = tuple(
            Share(share_tag(number), mount.target, mount.read_only)
            for number, mount in enumerate(spec.mounts)
        )

    def make_initrd(self, address: Address | None) -> bytes:
        """Return the initial RAM disk for a guest with this address, made once for the same one."""
        if self._made is not None and self._made[0] == address:
            return self._made[1]
        around = Surroundings(
            modules=self._modules,
            shares=self._mounts,
            address=address,
            agent=agent_program() if self.agent and self._narrow_busybox is None else b"",
            window=self._window,
        )
        content = make_initramfs(
            self._busybox, self.task, root=self._root, around=around, program=self._narrow_busybox
        )
        self._made = address, self._archive + content
        return self._made[1]


def disk_device(number: int) -> str:
    """Return the guest's name of disk `number`, from 0 on: /dev/vda, ..., /dev/vdaa."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"/dev/vd{letters}"


def _plain(spec: MachineSpec) -> Plan:
    """Return the plan of a kernel and an initial RAM disk of the user's own."""
    assert spec.kernel is not None
    shares = _shares(spec)
    return Plan(
        spec.kernel, spec.memory, _own(spec), spec.kernel.name, lambda address: spec.initrd,
        spec.disks, shares, seed=_seed(spec),
    )  # fmt: skip


def _image(spec: MachineSpec, progress: Progress, run_setup: Runner) -> Image | None:
    images = Images()
    if spec.root is not None or spec.guest == BUSYBOX:
        return None
    if spec.guest:
        return find_debian(images, run_setup, progress, spec.guest.partition(":")[2])
    return find_image(spec.image, images, progress)


def base_disk(image: Image) -> DiskSpec:
    """Return the disk of an image of the store, which must need no other file."""
    return DiskSpec(image.disk, Access.SNAPSHOT, Format(image.format), Below.NONE)


def _root(spec: MachineSpec, image: Image | None, *, boots: bool, modules_disk: str) -> Root:
    if spec.root is not None:
        return Root(
            ROOT_TAG, "virtiofs", "ro", overlay=True, boot=boots,
            modules=(*BUS_MODULES, *SHARE_MODULES, *DISK_MODULES, "overlay"),
            modules_disk=modules_disk,
        )  # fmt: skip
    assert image is not None
    # A flush is of no use to a disk that ends with the run; removed files are to leave the host's.
    return Root(
        image.settings.root, options="rw,nobarrier,discard", boot=boots, modules_disk=modules_disk
    )


def _shares(spec: MachineSpec) -> tuple[SharedDirectory, ...]:
    found: list[SharedDirectory] = []
    if spec.root is not None:
        found.append(SharedDirectory(spec.root, ROOT_TAG, read_only=True))
    found += [
        SharedDirectory(mount.source, share_tag(number), mount.read_only, mount.delegated)
        for number, mount in enumerate(spec.mounts)
    ]
    return tuple(found)


def _seed(spec: MachineSpec) -> bytes:
    return seed_of(spec.user_data, spec.name) if spec.user_data else b""


def _own(spec: MachineSpec) -> str:
    """Return the command line of a user's own kernel.  Raises ProgramError if it is none."""
    assert spec.kernel is not None
    if spec.append is not None:
        return spec.append
    return DEFAULT_APPEND if starts_linux(spec.kernel) else ""
