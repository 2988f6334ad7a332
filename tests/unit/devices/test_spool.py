"""The spool, which gathers output for the host."""

import pytest

from ringlet.devices.backends.spool import DELAY_NS, LIMIT, Spool
from ringlet.errors import OutputError


class Host:
    """A clock, two sinks, and the number of calls of `changed`."""

    def __init__(self) -> None:
        self.now = 1000
        self.told = 0
        self.written: list[tuple[str, bytes]] = []
        self.spool = Spool(lambda: self.now, self._changed)
        self.out = self.spool.before(lambda data: self.written.append(("out", data)))
        self.err = self.spool.before(lambda data: self.written.append(("err", data)))

    def _changed(self) -> None:
        self.told += 1


@pytest.fixture
def host() -> Host:
    return Host()


def test_bytes_wait_for_others_a_millisecond_after_the_first(host: Host) -> None:
    host.out(b"a")
    host.now += DELAY_NS - 1
    host.out(b"b")
    host.spool.update()

    assert (host.written, host.told) == ([], 1)
    assert host.spool.next_event() == 1000 + DELAY_NS

    host.now += 1
    assert host.spool.tick() is None
    assert host.written == [("out", b"ab")]
    assert host.spool.next_event() is None


def test_ports_keep_their_order(host: Host) -> None:
    host.out(b"1")
    host.err(b"2")
    host.err(b"3")
    host.out(b"4")
    host.spool.flush()

    assert host.written == [("out", b"1"), ("err", b"23"), ("out", b"4")]


def test_many_bytes_do_not_wait(host: Host) -> None:
    for _ in range(LIMIT):
        host.out(b"x")

    assert host.written == [("out", b"x" * LIMIT)]
    host.spool.flush()
    assert len(host.written) == 1


def test_next_byte_after_a_flush_has_its_own_time(host: Host) -> None:
    host.out(b"a")
    host.spool.flush()
    host.now += 5 * DELAY_NS
    host.out(b"b")

    assert host.told == 2
    assert host.spool.next_event() == host.now + DELAY_NS


def test_unwritable_output_is_not_written_again() -> None:
    spool = Spool(lambda: 0, lambda: None)

    def closed(data: bytes) -> None:
        raise OutputError("standard output was closed by its reader")

    spool.before(closed)(b"a")
    with pytest.raises(OutputError):
        spool.flush()
    spool.flush()
