"""Renders a listing as lines of styled text, and as JSON values.

Terminals, files and the golden tests share one layout: a line is a tuple of spans, and plain text
drops the styles of the spans.
"""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from ringlet.explain.listing import FragmentListing, GuestLine, HostLine, Kind, Listing

WIDTH: Final = 100
_NARROW: Final = 30
_WIDE: Final = 44
_MARGIN: Final = "  "
_GUEST_BYTES: Final = 24
_HOST_BYTES: Final = 30

_STYLES: Final = {
    Kind.INNOCUOUS: "",
    Kind.INLINED: "yellow",
    Kind.IGNORED: "yellow",
    Kind.LEAVES: "bold yellow",
    Kind.DEVICE: "bold yellow",
    Kind.REFUSED: "bold red",
    Kind.EMULATED: "magenta",
}
_CLASSES: Final = {
    Kind.INLINED: "sensitive, inlined",
    Kind.IGNORED: "sensitive, does nothing here",
    Kind.LEAVES: "sensitive, leaves for ",
    Kind.DEVICE: "at a device, leaves for ",
    Kind.REFUSED: "refused, leaves for ",
    Kind.EMULATED: "leaves for ",
}
_DIM: Final = "bright_black"
_SAME: Final = "green"
_NOTE: Final = "cyan"


@dataclass(frozen=True, slots=True)
class Span:
    """Text in one style; styles are rich's."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def as_text(listing: Listing, with_bytes: bool = False, reasons: bool = True) -> str:
    """Return the listing as plain text without trailing blanks."""
    lines = ("".join(span.text for span in line) for line in layout(listing, with_bytes, reasons))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def layout(listing: Listing, with_bytes: bool = False, reasons: bool = True) -> Iterator[Line]:
    """Yield the listing's lines; without `reasons`, only the class of each instruction is named."""
    longest = max((len(g.text) for f in listing.fragments for g in f.guest), default=0)
    column = min(max(longest, _NARROW), _WIDE) + 2
    digits = max((len(f"{f.linear:x}") for f in listing.fragments), default=1)
    layouter = _Layouter(digits, column, with_bytes, reasons)
    yield (
        Span(f"{listing.name}: {_count(sum(f.guest_bytes for f in listing.fragments), 'byte')}, "),
        Span("" if listing.bits == 64 else f"{listing.bits}-bit code, "),
        Span(f"CPL {listing.cpl}, {_count(len(listing.fragments), 'fragment')}"),
    )
    for fragment in listing.fragments:
        yield ()
        yield from layouter.fragment(fragment)
    if listing.rest:
        yield ()
        yield (Span(f"no whole instruction at the end: {listing.rest.hex(' ')}"),)


class _Layouter:
    def __init__(self, digits: int, column: int, with_bytes: bool, reasons: bool) -> None:
        self._digits = digits
        self._column = column + (_GUEST_BYTES if with_bytes else 0)
        self._bytes = with_bytes
        self._reasons = reasons

    def fragment(self, fragment: FragmentListing) -> Iterator[Line]:
        yield (
            Span(f"fragment {fragment.linear:#x}", "bold"),
            Span(f": {_count(len(fragment.guest), 'instruction')}, "),
            Span(f"{_count(fragment.guest_bytes, 'byte')} -> {fragment.host_bytes}"),
        )
        if fragment.thunk:
            yield from self._rows("", Span("(entry for indirect jumps)", _DIM), fragment.thunk)
        for guest in fragment.guest:
            yield from self._guest(guest)
        if fragment.end:
            yield from self._rows("", Span("(continues)", _DIM), fragment.end)
        if fragment.again:
            yield (Span(f"{_MARGIN}the loop's later passes:", _DIM),)
        for guest in fragment.again:
            yield from self._guest(guest)
        if fragment.again_end:
            yield from self._rows("", Span("(continues)", _DIM), fragment.again_end)
        if fragment.cold:
            yield (Span(f"{_MARGIN}out of line, for missed predictions:", _DIM),)
        for cold in fragment.cold:
            yield from self._rows(f"{cold.linear:x}", Span(""), cold.host)

    def _guest(self, guest: GuestLine) -> Iterator[Line]:
        text = guest.text
        if self._bytes:
            text = f"{guest.data.hex(' '):<{_GUEST_BYTES - 1}} {text}"
        yield from self._rows(f"{guest.linear:x}", Span(text, _STYLES[guest.kind]), guest.host)
        indent = _MARGIN + " " * (self._digits + 2)
        for line in textwrap.wrap(_note(guest, self._reasons), WIDTH, initial_indent=indent + "! ",
                                  subsequent_indent=indent + "  "):  # fmt: skip
            yield (Span(line, _NOTE),)

    def _rows(self, address: str, guest: Span, host: Iterable[HostLine]) -> Iterator[Line]:
        for first, line in zip_longest((guest,), host):
            left = first if first is not None else Span("")
            yield (
                Span(f"{_MARGIN}{address if first else '':>{self._digits}}  ", _DIM),
                Span(f"{left.text:<{self._column}}  ", left.style),
                *(self._host(line) if line is not None else ()),
            )

    def _host(self, line: HostLine) -> Iterator[Span]:
        yield Span("= " if line.same else "  ", _SAME)
        if self._bytes:
            yield Span(f"{line.offset:04x}  {line.data.hex(' '):<{_HOST_BYTES - 1}} ", _DIM)
        if line.label:
            yield Span(f"{line.label}: ", "bold")
        yield Span(line.text, _SAME if line.same else "")


def _note(guest: GuestLine, reasons: bool) -> str:
    """Return the note about an instruction; "" for one that runs unchanged."""
    if guest.kind is Kind.INNOCUOUS:
        return ""
    what = _CLASSES[guest.kind] + guest.operation
    where = f" (SDM {guest.manual})" if guest.manual else ""
    return f"{what}{where}: {guest.reason}" if reasons else what


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def as_json(listing: Listing) -> dict[str, Any]:
    """Return the listing as JSON values; addresses and bytes are hexadecimal strings."""
    return {
        "name": listing.name,
        "bits": listing.bits,
        "cpl": listing.cpl,
        "fragments": [_fragment_json(fragment) for fragment in listing.fragments],
        "rest": listing.rest.hex(),
    }


def _fragment_json(fragment: FragmentListing) -> dict[str, Any]:
    return {
        "linear": f"{fragment.linear:#x}",
        "guest_bytes": fragment.guest_bytes,
        "host_bytes": fragment.host_bytes,
        "thunk": [_host_json(line) for line in fragment.thunk],
        "instructions": [_guest_json(guest) for guest in fragment.guest],
        "end": [_host_json(line) for line in fragment.end],
        "again": [_guest_json(guest) for guest in fragment.again],
        "again_end": [_host_json(line) for line in fragment.again_end],
        "cold": [
            {"linear": f"{cold.linear:#x}", "host": [_host_json(line) for line in cold.host]}
            for cold in fragment.cold
        ],
    }


def _guest_json(guest: GuestLine) -> dict[str, Any]:
    return {
        "linear": f"{guest.linear:#x}",
        "bytes": guest.data.hex(),
        "text": guest.text,
        "class": guest.kind.value,
        "operation": guest.operation,
        "reason": guest.reason,
        "manual": guest.manual,
        "host": [_host_json(line) for line in guest.host],
    }


def _host_json(line: HostLine) -> dict[str, Any]:
    return {
        "offset": line.offset,
        "bytes": line.data.hex(),
        "text": line.text,
        "label": line.label,
        "same": line.same,
    }
