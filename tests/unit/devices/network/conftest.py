"""Engines of user-mode networking that this host has."""

import ctypes.util
import shutil
from collections.abc import Callable, Iterator

import pytest
from tests.unit.devices.network.frames import Guest
from tests.unit.devices.network.isolated import namespaces, networks

from ringlet.devices.backends.network.engines import PASST, SLIRP, Kind
from ringlet.devices.backends.network.link import Link
from ringlet.devices.backends.network.opening import open_network
from ringlet.network_config import net_config

Open = Callable[..., Guest]

collect_ignore = [] if networks() else ["test_isolated.py"]


def absent(kind: Kind) -> str:
    """What this host lacks to run `kind`; empty: nothing."""
    if kind is SLIRP:
        return "" if ctypes.util.find_library("slirp") else "libslirp0 is not installed"
    if shutil.which("passt") is None:
        return "passt is not installed"
    return "" if namespaces() else "passt needs user namespaces"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of an engine with those that are here; test_opening says which are not."""
    if "engine" in metafunc.fixturenames:
        kinds = [kind for kind in (PASST, SLIRP) if not absent(kind)]
        metafunc.parametrize("engine", [pytest.param(kind, id=kind.name) for kind in kinds])


@pytest.fixture
def lost() -> list[str]:
    """What the engines have said when they ended by themselves."""
    return []


@pytest.fixture
def guest(lost: list[str]) -> Iterator[Open]:
    """Opens a network and returns a guest on it."""
    links: list[Link] = []

    def open_it(kind: Kind, *publish: str, net: str = "user") -> Guest:
        link = open_network(net_config(net, publish), lost.append, [kind])
        assert link is not None
        links.append(link)
        player = Guest(link)
        player.ask_gateway()
        return player

    yield open_it
    for link in links:
        link.close()
