"""The description of a machine, from which the command line and Python build the same machines."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from ringlet import config
from ringlet.config import Option
from ringlet.control import parts
from ringlet.control.parts import Mount
from ringlet.control.words import BUSYBOX, Kind, meaning
from ringlet.disk_spec import DiskSpec, parse_disk
from ringlet.errors import ConfigError
from ringlet.flat_spec import FlatPlace, parse_flat
from ringlet.images.seed import check_user_data, read_user_data
from ringlet.machine import flat_image, host
from ringlet.network_config import NetConfig, net_config

Called: TypeAlias = Callable[[Option], str]
"""Returns the name by which an error calls an option."""

NO_NETWORK: Final = NetConfig()
_LEAST: Final = {"debian": config.DEBIAN_LEAST}


def in_python(option: Option) -> str:
    """Return the name that `option` has as a parameter."""
    return option.parameter


def on_command_line(option: Option) -> str:
    """Return the name that `option` has on the command line."""
    return option.flag


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """All that a machine may have; `machine_spec` makes and checks one.

    A machine starts from a named `guest`, an `image`, a `kernel` of the user's own, or, without
    all these, the first of `disks`; with a `program`, it is a bare machine, and `flat` is the place
    of a program without a format.  `memory` is in bytes, `timeout` in seconds.  `append` is None
    where the user gave none.  `reboot` says that a reset by the guest does not end the run.
    """

    guest: str = ""
    image: str = ""
    program: Path | None = None
    flat: FlatPlace | None = None
    kernel: Path | None = None
    initrd: Path | bytes | None = None
    append: str | None = None
    package: str = config.PACKAGE.default
    root: Path | None = None
    memory: int = config.LINUX_MEMORY
    cpus: int = 1
    mounts: tuple[Mount, ...] = ()
    disks: tuple[DiskSpec, ...] = ()
    net: NetConfig = NO_NETWORK
    user_data: bytes = b""
    vsock: Path | None = None
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    timeout: float | None = None
    name: str = ""
    console: str = config.CONSOLE.default
    log: Path | None = None
    direct: str = config.DIRECT.default
    exact: bool = False
    cold: bool = False
    reboot: bool = False
    debug_exit: bool = False


Mounts: TypeAlias = Mapping[str, str] | Iterable[str | Mount] | str | Mount | None
Disks: TypeAlias = Iterable[str | Path | DiskSpec] | str | Path | DiskSpec | None
Ports: TypeAlias = Mapping[int, int] | Iterable[str] | str | None
Variables: TypeAlias = Mapping[str, str] | Iterable[str] | None


def machine_spec(
    guest: str | None = None,
    *,
    program: str | Path | None = None,
    flat: str | None = None,
    kernel: str | Path | None = None,
    initrd: str | Path | bytes | None = None,
    append: str | None = None,
    package: str = config.PACKAGE.default,
    root: str | Path | None = None,
    memory: str | int | None = None,
    cpus: int = 1,
    mounts: Mounts = None,
    disks: Disks = None,
    ports: Ports = None,
    net: str | NetConfig | None = None,
    user_data: str | Path | bytes | None = None,
    vsock: str | Path | None = None,
    env: Variables = None,
    cwd: str = "",
    timeout: str | float | None = None,
    name: str = "",
    console: str = config.CONSOLE.default,
    log: str | Path | None = None,
    direct: str = config.DIRECT.default,
    exact: bool = False,
    cold: bool = False,
    reboot: bool = False,
    debug_exit: bool = False,
    called: Called = in_python,
) -> MachineSpec:
    """Check what a user gave and return the description of the machine.

    `guest` is a name, an image, or the file of a kernel or disk.  Raises ConfigError, which calls
    each option as `called` says.
    """
    image = ""
    found = [
        d if isinstance(d, DiskSpec) else parse_disk(str(d), called(config.DISKS))
        for d in parts.several(disks)
    ]
    _check_disks(found, called(config.DISKS))
    if guest:
        word = meaning(guest, python=called is in_python)
        if word.kind is not Kind.GUEST:
            guest = ""
        if word.kind is Kind.IMAGE:
            image = word.text
        elif word.kind is Kind.DISK and word.path is not None:
            found.insert(0, DiskSpec(word.path))
        elif word.kind is Kind.KERNEL:
            if kernel is not None:
                raise ConfigError(f"{word.text}: a machine starts one kernel; leave out one of two")
            kernel = word.path
    if guest and initrd is not None:
        raise ConfigError(
            f"{guest} has its own initial RAM disk; leave out {called(config.INITRD)}"
        )
    if initrd is not None and kernel is None:
        raise ConfigError(
            f"{called(config.INITRD)} needs a kernel; give one with {called(config.KERNEL)}"
        )
    if program is not None:
        _refuse_beside_program(called, {
            config.KERNEL: kernel, config.INITRD: initrd, config.APPEND: append,
            config.ROOT: root, config.MOUNTS: mounts, config.DISKS: disks, config.PORTS: ports,
            config.NET: net, config.USER_DATA: user_data, config.VSOCK: vsock, config.ENV: env,
            config.LOG: log, config.NAME: name, config.DEBUG_EXIT: debug_exit,
        })  # fmt: skip
        if guest or image or found:
            raise ConfigError("a bare program needs no guest; leave out one of the two")
    if flat is not None and program is None:
        raise ConfigError(f"{called(config.FLAT)} needs {config.BARE.flag}, which takes a program")
    _check_cpus(cpus, called(config.CPUS))
    if cwd and not cwd.startswith("/"):
        raise ConfigError(f"{called(config.WORKDIR)} {cwd}: give an absolute path of the guest")
    if root is not None and not Path(root).is_dir():
        raise ConfigError(f"{called(config.ROOT)} {root}: no such directory")
    shares = [
        parts.mount(cast("str", m), called(config.MOUNTS)) for m in parts.several(mounts)
    ]
    parts.check_places(shares, called(config.MOUNTS))
    forwards = [str(port) for port in parts.several(ports)]
    network = net if isinstance(net, NetConfig) else net_config(
        net, forwards, called=called(config.NET), published=called(config.PORTS)
    )
    return MachineSpec(
        guest=guest or "",
        image=image,
        program=Path(program) if program is not None else None,
        flat=parse_flat(flat, called(config.FLAT)) if flat is not None else None,
        kernel=Path(kernel) if kernel is not None else None,
        initrd=Path(initrd) if isinstance(initrd, str) else initrd,
        append=append,
        package=package,
        root=Path(root) if root is not None else None,
        memory=_memory(memory, guest or "", bare=program is not None, called=called),
        cpus=cpus,
        mounts=tuple(shares),
        disks=tuple(found),
        net=network,
        user_data=_user_data(user_data, guest or "", called),
        vsock=Path(vsock) if vsock is not None else None,
        env=parts.variables(env, called(config.ENV)),
        cwd=cwd,
        timeout=None if timeout is None else config.parse_seconds(timeout, called(config.TIMEOUT)),
        name=name,
        console=console,
        log=Path(log) if log is not None else None,
        direct=config.parse_direct(direct, called(config.DIRECT)),
        exact=exact,
        cold=cold,
        reboot=reboot,
        debug_exit=debug_exit,
    )


def _refuse_beside_program(called: Called, given: Mapping[Option, object]) -> None:
    """Raise ConfigError for the first option that a bare program has no use for."""
    for option, value in given.items():
        if value and value != option.default:
            raise ConfigError(f"{called(option)} has no effect with a bare program; leave it out")


def _memory(given: str | int | None, guest: str, *, bare: bool, called: Called) -> int:
    name = called(config.MEMORY)
    if bare:
        return config.parse_memory(
            str(given or config.BARE_MEMORY), host.memory_size(), name=name
        )
    least = _LEAST.get(guest, config.MIN_MEMORY)
    return config.linux_memory(given, host.memory_size(), name=name, least=least)


def _user_data(given: str | Path | bytes | None, guest: str, called: Called) -> bytes:
    name = called(config.USER_DATA)
    if given is None:
        return b""
    if guest == BUSYBOX:
        raise ConfigError(f"{name}: {guest} has no cloud-init; leave out {name}")
    data = given if isinstance(given, bytes) else read_user_data(Path(given), name)
    return check_user_data(data, name if isinstance(given, bytes) else f"{name} {given}")


def _check_disks(disks: list[DiskSpec], called: str) -> None:
    for disk in disks:
        if disk.path.is_dir():
            raise ConfigError(
                f"{called} {disk.path}: is a directory; share it with {config.MOUNTS.flag}"
            )
        if not disk.path.exists():
            raise ConfigError(f"{called} {disk.path}: no such file")


def _check_cpus(cpus: int, called: str) -> None:
    if cpus < 1:
        raise ConfigError(f"{called} {cpus}: give 1")
    if cpus > 1:
        raise ConfigError(
            f"{called} {cpus}: guests have one processor so far; leave out {called}"
        )


def require_supported(spec: MachineSpec, called: Called) -> None:
    """Refuse what a spec may have and machines cannot have yet.  Raises ConfigError.

    This is the one place that says so: whoever adds a part to `ringlet.control.board` removes its
    line here.
    """
    if spec.disks and not (spec.guest or spec.kernel or spec.program or spec.image or spec.root):
        path = spec.disks[0].path
        how = flat_image.boot_sector(path)
        if how and path.stat().st_size == flat_image.SECTOR:
            raise ConfigError(f"{path}: is a boot sector; {how}")
        raise ConfigError(
            f"{path}: starting from a disk's own boot loader is not supported yet; "
            f"give {called(config.KERNEL)} and {called(config.INITRD)}, or import the disk: "
            f"ringlet image import {path} --name NAME, and then ringlet run NAME"
            + (f"; or {how}" if how else "")
        )
    if spec.kernel is not None and not (spec.guest or spec.image or spec.root):
        for number in range(len(spec.mounts)):
            _require_named(share_tag(number), spec, called)


def share_tag(number: int) -> str:
    """Return the virtio-fs tag of the user's share `number`."""
    return f"ringlet-{number}"


def _require_named(tag: str, spec: MachineSpec, called: Called) -> None:
    """Refuse a share that the guest will not mount: its command line must name the tag."""
    if tag not in (spec.append or "").replace("=", " ").split():
        raise ConfigError(
            f"{called(config.MOUNTS)}: a kernel of your own mounts its directories itself, by "
            f"their tags; say in {called(config.APPEND)} which it mounts (share={tag}), leave out "
            f"{called(config.MOUNTS)}, or give a guest with {called(config.KERNEL)}"
        )
