"""A reader of the few AML terms that the DSDT is made of, written from the specification.

It gives each named thing under its full path: a number, a string, bytes, or a list; a Name where a
package names something, None for a device or a region, and a Code for a method.  Anything else, and
any length that does not come out even, is an assertion error.
"""

from dataclasses import dataclass, field


class Name(str):
    """A name in a package."""

    __slots__ = ()


class Code(bytes):
    """The terms of a method, after its flags."""

    __slots__ = ()


Value = int | str | bytes | list["Value"]


@dataclass
class Reader:
    """Reads `aml` from `at` on."""

    aml: bytes
    at: int = 0
    names: dict[str, Value | None] = field(default_factory=dict)

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.aml)
        self.at += count
        return self.aml[self.at - count : self.at]

    def package_end(self) -> int:
        start = self.at
        lead = self.take(1)[0]
        extra = lead >> 6
        if not extra:
            return start + lead
        assert lead & 0x30 == 0
        return start + (lead & 0xF | int.from_bytes(self.take(extra), "little") << 4)

    def path(self, scope: str) -> str:
        absolute = self.aml[self.at : self.at + 1] == b"\\"
        if absolute:
            self.take(1)
        count = 1
        if self.aml[self.at] == 0x2E:
            self.take(1)
            count = 2
        elif self.aml[self.at] == 0x2F:
            self.take(1)
            count = self.take(1)[0]
        segments = [self.take(4).decode("ascii") for _ in range(count)]
        assert all(segment.isupper() or segment.strip("_0123456789") for segment in segments)
        return ("\\" if absolute else scope + ".").removeprefix(".") + ".".join(segments)

    def terms(self, end: int, scope: str) -> None:
        while self.at < end:
            self.term(scope)
        assert self.at == end

    def term(self, scope: str) -> None:
        match self.take(1)[0]:
            case 0x08:
                name = self.path(scope)
                assert name not in self.names
                self.names[name] = self.value()
            case 0x10:
                end = self.package_end()
                self.terms(end, self.path(scope))
            case 0x14:
                end = self.package_end()
                name = self.path(scope)
                assert name not in self.names
                self.names[name] = Code(self.take(end - self.at))
            case 0x5B:
                self.extended(self.take(1)[0], scope)
            case other:
                raise AssertionError(f"unknown term {other:02X}h")

    def extended(self, code: int, scope: str) -> None:
        match code:
            case 0x80:  # a region: its space, offset and length
                name = self.path(scope)
                self.names[name] = [self.take(1)[0], self.value(), self.value()]
            case 0x81:  # fields of a region: their widths in bits
                end = self.package_end()
                self.path(scope)
                self.take(1)
                while self.at < end:
                    name = self.path(scope)
                    self.names[name] = self.take(1)[0]
                assert self.at == end
            case 0x82:
                end = self.package_end()
                name = self.path(scope)
                assert name not in self.names
                self.names[name] = None
                self.terms(end, name)
            case other:
                raise AssertionError(f"unknown term 5B {other:02X}h")

    def value(self) -> Value:
        match self.take(1)[0]:
            case 0x00:
                return 0
            case 0x01:
                return 1
            case 0x0A | 0x0B | 0x0C as prefix:
                return int.from_bytes(self.take(1 << prefix - 0x0A), "little")
            case 0x0E:
                return int.from_bytes(self.take(8), "little")
            case 0x0D:
                end = self.aml.index(b"\0", self.at)
                text = self.take(end - self.at)
                self.take(1)
                return text.decode("ascii")
            case 0x11:
                end = self.package_end()
                size = self.value()
                assert size == end - self.at
                return self.take(end - self.at)
            case 0x12:
                end = self.package_end()
                elements = [self.value() for _ in range(self.take(1)[0])]
                assert self.at == end
                return elements
            case letter if chr(letter).isupper():
                self.at -= 1
                return Name(self.path(""))
            case other:
                raise AssertionError(f"unknown value {other:02X}h")


def read(aml: bytes) -> dict[str, Value | None]:
    """Return everything that `aml` names."""
    reader = Reader(aml)
    reader.terms(len(aml), "\\")
    return reader.names
