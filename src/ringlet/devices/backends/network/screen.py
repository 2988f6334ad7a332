"""Frames that a guest may not send to an engine of user-mode networking.

An engine opens the host's sockets to the addresses that the guest's packets name.  Neither passt
(2023-03-09) nor libslirp (4.7) looks whether such an address is the host itself, so a guest that
sends to 127.0.0.1 from its card reaches services on the host's loopback.  No kernel sends such a
packet (RFC 1122 3.2.1.3, RFC 4291 2.5.3); a hostile guest does.

Fragments are dropped because libslirp 4.7 crashes when it joins hostile ones; passt drops them
itself.  A guest sends them only for datagrams longer than the link's MTU.
"""

from typing import Final

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_IPV4_END: Final = 34
_IPV6_END: Final = 54
_MORE_OR_OFFSET: Final = 0x3F  # of a fragment, in the upper byte (RFC 791 3.1)
_FRAGMENT: Final = 44  # the next header (RFC 8200 4.5)
_LOCAL_NETS: Final = (0, 127)  # Linux takes "this network" for the loopback too
_LOW_HALF: Final = bytes(8)  # ::/64: unspecified, loopback, IPv4-mapped and IPv4-compatible


def permits(frame: bytes) -> bool:
    """Tell whether `frame`, which a guest sends, may reach an engine.

    Only IPv4, ARP and IPv6 may, only whole packets, and not if the destination is the host itself.
    """
    kind = frame[12:14]
    if kind == _IPV4:
        return (
            len(frame) >= _IPV4_END
            and frame[30] not in _LOCAL_NETS
            and not frame[20] & _MORE_OR_OFFSET
            and not frame[21]
        )
    if kind == _IPV6:
        return len(frame) >= _IPV6_END and frame[38:46] != _LOW_HALF and frame[20] != _FRAGMENT
    return kind == _ARP
