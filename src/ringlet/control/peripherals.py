"""The devices that a user gives a machine: disks, shared directories, a network, an agent's port.

What they use of the host is opened once, and outlives a reset of the machine; the devices are made
anew for each machine.
"""

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ringlet import config
from ringlet.control.agent.agent import Agent
from ringlet.control.background.places import machines
from ringlet.control.plan import Plan
from ringlet.control.spec import MachineSpec
from ringlet.devices.backends.disks.interface import Disk
from ringlet.devices.backends.disks.locks import ImageInUseError
from ringlet.devices.backends.disks.opening import open_disk
from ringlet.devices.backends.host_sockets import HostSockets
from ringlet.devices.backends.network.link import Link
from ringlet.devices.backends.network.opening import open_network
from ringlet.devices.backends.shares.server import FileServer
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.block import Block
from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.fs import Fs
from ringlet.devices.virtio.net import Net
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import RingletError
from ringlet.guest import PORT
from ringlet.images.initramfs import Address
from ringlet.machine.pci_slots import MakeDevice

Failed = Callable[[Exception], None]


class Peripherals(contextlib.ExitStack):
    """What `spec` and `plan` give a machine, until `close`.

    `complain` is told what the user should know, in one line, from any thread.  Raises ConfigError,
    DiskError, HostError and ImageError.
    """

    def __init__(
        self, spec: MachineSpec, plan: Plan | None, complain: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._complain = complain
        self._plan = plan
        self._disks: list[Disk] = []
        self._servers: list[tuple[FileServer, str]] = []
        self._link: Link | None = None
        self._net: Net | None = None
        self._sockets: HostSockets | None = None
        self._agent: socket.socket | None = None
        self.callback(self._drop_agent)
        self.callback(self._forget)
        try:
            self._open(spec, plan)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: MachineSpec, plan: Plan | None) -> None:
        if plan is not None and plan.image is not None:
            self.enter_context(plan.image.used())
        for disk in plan.disks if plan is not None else spec.disks:
            self._disks.append(_open_disk(disk, self._complain))
            self.callback(self._disks[-1].close)
        if plan is not None and plan.seed:
            self._disks.append(_seed(plan.seed, self._complain))
            self.callback(self._disks[-1].close)
        if spec.vsock is not None:
            self._sockets = HostSockets(spec.vsock, config.VSOCK.flag)
            self.callback(self._sockets.close)
        self._link = open_network(spec.net, self._link_lost)
        if self._link is not None:
            self.callback(self._link.close)
            for forward in self._link.forwards:
                if any(asked.host_port == 0 and asked.text == forward.text
                       for asked in spec.net.forwards):
                    self._complain(f"forwarding {forward}")
        if plan is not None and plan.shares:
            _allow_files()
        for share in plan.shares if plan is not None else ():
            server = FileServer(
                share.source, read_only=share.read_only, exclusive=share.delegated,
                trouble=self._complain,
            )
            self.callback(server.close)
            self._servers.append((server, share.tag))

    # --- for each machine

    def devices(self) -> list[MakeDevice]:
        """Return how to make the devices, in the order of their slots."""
        plan = self._plan
        makers: list[MakeDevice] = [
            partial(_disk, disk, f"disk{n}") for n, disk in enumerate(self._disks)
        ]
        if self._link is not None:
            makers.append(self._make_net)
        makers += [
            partial(_share, server, tag, f"share{n}") for n, (server, tag) in
            enumerate(self._servers)
        ]  # fmt: skip
        if self._sockets is not None:
            makers.append(partial(_sockets, self._sockets))
        if plan is not None and plan.agent:
            makers += [self._make_console, _rng, _balloon]
        return makers

    def connect(self) -> Agent | None:
        """Return the agent of the machine that was made last; None if it has none."""
        stream = self.agent_stream()
        return Agent(stream) if stream is not None else None

    def agent_stream(self) -> socket.socket | None:
        """Return the line to the agent of the machine that was made last, once."""
        stream, self._agent = self._agent, None
        return stream

    @property
    def address(self) -> Address | None:
        """The address that DHCP gives the guest; None if only the network knows."""
        link = self._link
        if link is None or link.ipv4 is None:
            return None
        ip = link.ipv4
        return Address(f"{ip.address}/{ip.prefix}", ip.gateway, ip.dns, link.mtu)

    # --- inside

    def _make_net(self, failed: Failed) -> VirtioDevice:
        assert self._link is not None
        self._net = Net(self._link, failed)
        return self._net

    def _forget(self) -> None:
        """Let go of the plan, with its initial RAM disk, and of what has been closed."""
        self._plan = None
        self._disks.clear()
        self._servers.clear()

    def _drop_agent(self) -> None:
        """Close the line to an agent that nobody has asked for."""
        agent, self._agent = self._agent, None
        if agent is not None:
            agent.close()

    def _make_console(self, failed: Failed) -> VirtioDevice:
        ours, other = socket.socketpair()
        self._drop_agent()
        self._agent = ours
        return Console([Port(PORT, other.detach())], failed)

    def _link_lost(self, message: str) -> None:
        self._complain(message)
        if self._net is not None:
            self._net.link_lost()


def _allow_files() -> None:
    """Let this process open as many files as it may: a share takes part of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open_disk(disk: DiskSpec, complain: Callable[[str], None]) -> Disk:
    """Return the disk.  Raises DiskError, which names the machine that has locked the image."""
    try:
        return open_disk(disk, complain)
    except ImageInUseError as error:
        names: list[str] = []
        with contextlib.suppress(RingletError):
            names += (one.name for one in machines() if one.alive and one.pid == error.holder)
        raise error.named(names[0]) if names else error from None


def _disk(disk: Disk, name: str, failed: Failed) -> VirtioDevice:
    return Block(disk, failed, name)


def _share(server: FileServer, tag: str, name: str, failed: Failed) -> VirtioDevice:
    return Fs(server, tag, failed, name)


def _sockets(host: HostSockets, failed: Failed) -> VirtioDevice:
    return Vsock(failed, host=host)


def _seed(content: bytes, trouble: Callable[[str], None]) -> Disk:
    """Return a disk with `content`, which the guest can only read."""
    with os.fdopen(os.memfd_create("cloud-init seed", os.MFD_CLOEXEC), "wb") as file:
        file.write(content)
        file.flush()
        path = Path(f"/proc/self/fd/{file.fileno()}")
        return open_disk(DiskSpec(path, Access.READ_ONLY, Format.RAW), trouble)


def _rng(failed: Failed) -> VirtioDevice:
    return Rng(failed)


def _balloon(failed: Failed) -> VirtioDevice:
    return Balloon(failed)
