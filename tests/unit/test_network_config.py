"""--net and -p, as users write them."""

import pytest

from ringlet.errors import ConfigError
from ringlet.network_config import (
    MAX_FORWARDS,
    Forward,
    NetConfig,
    NetMode,
    net_config,
    parse_forward,
)  # fmt: skip


def test_a_guest_has_no_network_unless_told() -> None:
    assert net_config(None) == NetConfig(NetMode.NONE)
    assert net_config(None, default="user").mode is NetMode.USER


def test_forwarded_ports_ask_for_a_network() -> None:
    config = net_config(None, ["8080:80"])

    assert config.mode is NetMode.USER
    assert [str(f) for f in config.forwards] == ["0.0.0.0:8080 -> 80/tcp"]


@pytest.mark.parametrize(
    ("text", "address", "host", "guest", "protocol"),
    [
        ("8080:80", "0.0.0.0", 8080, 80, "tcp"),
        ("8080:80/tcp", "0.0.0.0", 8080, 80, "tcp"),
        ("5353:53/udp", "0.0.0.0", 5353, 53, "udp"),
        ("127.0.0.1:2222:22", "127.0.0.1", 2222, 22, "tcp"),
        ("127.0.0.1::22", "127.0.0.1", 0, 22, "tcp"),
        (":22", "0.0.0.0", 0, 22, "tcp"),
        ("22", "0.0.0.0", 0, 22, "tcp"),
        ("[::1]:8080:80", "::1", 8080, 80, "tcp"),
        ("[::]::80/udp", "::", 0, 80, "udp"),
    ],
)
def test_a_port_is_written_as_in_docker(
    text: str, address: str, host: int, guest: int, protocol: str
) -> None:
    assert parse_forward(text) == (Forward(address, host, guest, protocol, text),)


def test_a_range_is_a_forward_for_each_port() -> None:
    found = parse_forward("8000-8002:80-82")

    assert [(f.host_port, f.guest_port) for f in found] == [(8000, 80), (8001, 81), (8002, 82)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a forwarded port; give [HOSTIP:]HOSTPORT:GUESTPORT"),
        ("a:b", "not a forwarded port"),
        ("8080:", "not a forwarded port"),
        ("8080:80:", "not a forwarded port"),
        ("8080:80/sctp", "sctp cannot be forwarded; give tcp or udp"),
        ("0:80", "ports are 1 to 65535"),
        ("8080:65536", "ports are 1 to 65535"),
        ("8080:0", "ports are 1 to 65535"),
        ("9-8:9-8", "a range begins with the lower one"),
        ("1-2:1-3", "2 ports of the host for 3 of the guest"),
        ("1-300:1-300", f"at most {MAX_FORWARDS} ports"),
        ("1--2:3", "1--2 is not a port or a range"),
        ("localhost:80:80", "localhost is not an IP address"),
        ("256.0.0.1:80:80", "256.0.0.1 is not an IP address"),
        ("[::g]:80:80", "::g is not an IP address"),
        ("[1.2.3.4]:80:80", "write IPv6 addresses, and no others, in brackets"),
        ("::1:80:80", "not a forwarded port"),
        ("٣:80", "not a port"),
        ("8080:80\n", "not a forwarded port"),
    ],
)
def test_a_mistake_in_a_port_is_told_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_forward(text)

    assert message in str(caught.value)
    assert str(caught.value).startswith(f"-p {text}:")


@pytest.mark.parametrize(
    ("net", "publish", "message"),
    [
        ("none", ["80:80"], "-p 80:80: a guest with --net none has no ports"),
        ("tap:tap0", ["80:80"], "-p 80:80: only --net user forwards ports"),
        ("host", [], "--net host: give none, user, user,host-loopback or tap:NAME"),
        ("user:x", [], "give none, user"),
        ("user,x", [], "give none, user"),
        ("none,x", [], "give none, user"),
        ("", [], "give none, user"),
        ("tap", [], "give the interface's name, as in tap:tap0"),
        ("tap:a/b", [], "give the interface's name"),
        ("tap:" + "x" * 16, [], "give the interface's name"),
        ("user", ["80:80", "80:81"], "-p 80:81: port 80/tcp of the host is forwarded twice"),
        ("user", [f"{i}:80" for i in range(1, 300)], f"at most {MAX_FORWARDS} ports"),
    ],
)
def test_a_mistake_in_a_network_is_told_in_a_line(
    net: str, publish: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        net_config(net, publish)

    assert message in str(caught.value)


def test_options_reach_the_configuration() -> None:
    mac = bytes(6)

    assert net_config("tap:tap0", mac=mac) == NetConfig(NetMode.TAP, tap="tap0", mac=mac)
    assert net_config("user,host-loopback").host_loopback
    assert not net_config("user").host_loopback


def test_the_same_port_may_be_of_both_protocols_and_of_two_addresses() -> None:
    given = ["53:53", "53:53/udp", "127.0.0.1:54:53", "127.0.0.2:54:53", ":1", ":1"]

    assert len(net_config("user", given).forwards) == len(given)
