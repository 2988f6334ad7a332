"""Which frames of a guest may reach an engine."""

import pytest
from tests.unit.devices.network.frames import ARP, IPV4, IPV6, packet

from ringlet.devices.backends.network.screen import permits

HEAD = bytes(12)


def frame(target: str) -> bytes:
    if ":" in target:
        return HEAD + IPV6 + packet("fd00:10:0:2::15", target, 6, bytes(20))
    return HEAD + IPV4 + packet("10.0.2.15", target, 6, bytes(20))


@pytest.mark.parametrize(
    "target", ["1.1.1.1", "10.0.2.2", "255.255.255.255", "126.255.255.255", "128.0.0.1",
               "2001:db8::1", "fe80::1", "ff02::1", "fd00:10:0:2::2"]
)  # fmt: skip
def test_a_packet_to_another_host_passes(target: str) -> None:
    assert permits(frame(target))


@pytest.mark.parametrize(
    "target", ["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3",
               "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.2.2", "::127.0.0.1"]
)  # fmt: skip
def test_a_packet_to_the_host_itself_does_not(target: str) -> None:
    assert not permits(frame(target))


def test_arp_passes_and_no_other_protocol_does() -> None:
    assert permits(HEAD + ARP + bytes(28))
    assert not permits(HEAD + b"\x81\x00" + frame("1.1.1.1")[12:])  # a VLAN
    assert not permits(HEAD + b"\x88\xf8" + bytes(60))


@pytest.mark.parametrize("field", [0x2000, 0x0001, 0x1F00, 0x3FFF])
def test_a_fragment_does_not_pass(field: int) -> None:
    fragment = bytearray(frame("1.1.1.1"))
    fragment[20:22] = field.to_bytes(2)
    six = bytearray(frame("2001:db8::1"))
    six[20] = 44

    assert not permits(bytes(fragment))
    assert not permits(bytes(six))


def test_a_packet_that_may_not_be_fragmented_passes() -> None:
    whole = bytearray(frame("1.1.1.1"))
    whole[20] = 0x40

    assert permits(bytes(whole))


@pytest.mark.parametrize("kind", [IPV4, IPV6, b""])
def test_what_is_too_short_for_an_address_does_not_pass(kind: bytes) -> None:
    assert not permits(HEAD + kind)
    assert not permits((HEAD + kind).ljust(33, b"\1"))
    assert not permits(b"")
