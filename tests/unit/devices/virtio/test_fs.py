"""The file system device with a server that does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import Rig, eventually
from tests.unit.vcpu.board import CODE

from ringlet.devices.virtio.fs import Fs

REQUESTS = 1
REPLY = b"sixteen bytes it"
REQUEST = bytes(40)


class Server:
    """Answers each request with REPLY: at once, or when waits are ended."""

    def __init__(self) -> None:
        self.patient = False
        self.begun = threading.Event()
        self.ended = threading.Event()

    def handle(
        self, request: list[memoryview], reply: list[memoryview], *, may_wait: bool
    ) -> int:
        self.begun.set()
        if self.patient and may_wait:
            self.ended.wait(10)
        reply[0][: len(REPLY)] = REPLY
        return len(REPLY)

    def waits(self, request: list[memoryview]) -> bool:
        return self.patient

    def end_waits(self) -> None:
        self.ended.set()

    def reset(self) -> None:
        self.ended.clear()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def rig(make_rig: MakeRig, server: Server) -> Rig:
    def make(failed: Callable[[Exception], None]) -> Fs:
        return Fs(server, "share", failed)

    return make_rig(make)


def test_request_gets_its_reply(rig: Rig) -> None:
    rig.start()
    head, (room,) = rig.send(REQUESTS, [REQUEST], [64])

    assert rig.came_back(REQUESTS) == [(head, len(REPLY))]
    assert rig.read(room, len(REPLY)) == REPLY


def test_request_without_a_header_breaks_the_device(rig: Rig) -> None:
    rig.start()
    rig.send(REQUESTS, [b"7 bytes"], [64])

    assert eventually(lambda: rig.needs_reset)


def test_reset_ends_what_waits(rig: Rig, server: Server) -> None:
    server.patient = True
    rig.start()
    rig.send(REQUESTS, [REQUEST], [64])
    assert server.begun.wait(10)

    rig.start()

    assert rig.rings[REQUESTS].waits() == 0


def test_device_at_rest_has_answered_what_waits(rig: Rig, server: Server) -> None:
    server.patient = True
    rig.start()
    rig.send(REQUESTS, [REQUEST], [64])
    assert server.begun.wait(10)

    rig.device.pause()

    assert rig.rings[REQUESTS].waits() == 1
    rig.device.resume()


def test_reply_in_code_that_a_reset_has_ended_does_not_come_back_later(
    rig: Rig, server: Server
) -> None:
    server.patient = True
    rig.board.run(bytes.fromhex("b801000000"))
    rig.start()
    rig.rings[REQUESTS].chain([rig.buffer(REQUEST)], [(CODE, 64)])
    rig.ring(REQUESTS)
    assert server.begun.wait(10)

    rig.start()
    rig.post_all()

    assert rig.rings[REQUESTS].waits() == 0
