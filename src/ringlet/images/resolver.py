"""Chooses packages from Debian's lists: the newest versions, and all that they depend on.

Only Depends and Pre-Depends count.  Of alternatives, the first that is chosen already is taken,
else the first that exists; of those that provide a virtual package, the one of the highest
priority.  Versions compare as deb-version(7) says.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.deb import fields

_RELATION: Final = re.compile(
    r"\s*([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^\s)]+)\s*\))?"
)
_PARTS: Final = re.compile(r"(\D*)(\d*)")
_PRIORITIES: Final = ("required", "important", "standard", "optional")
_KEPT: Final = frozenset(
    ("Package", "Version", "Architecture", "Depends", "Pre-Depends", "Provides", "Filename", "Size",
     "SHA256", "Priority")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Package:
    """A version of a package: its fields, and the address of the server that has it."""

    name: str
    version: str
    size: int
    fields: Mapping[str, str]
    uri: str


@dataclass(frozen=True, slots=True)
class Relation:
    """A package that another one wants, perhaps with an operator and a version."""

    name: str
    operator: str = ""
    version: str = ""

    def allows(self, version: str) -> bool:
        """Return whether `version` is good enough."""
        order = compare(version, self.version) if self.operator else 0
        match self.operator:
            case "<<":
                return order < 0
            case "<=":
                return order <= 0
            case "=":
                return order == 0
            case ">=":
                return order >= 0
            case ">>":
                return order > 0
        return True


class Packages:
    """All packages of a release.  The methods raise ImageError."""

    def __init__(self, release: str) -> None:
        self._release = release
        self._newest: dict[str, Package] = {}
        self._providers: dict[str, list[tuple[str, str]]] = {}

    def add(self, text: str, uri: str) -> None:
        """Add the packages of a list, which the server at `uri` has."""
        for stanza in text.split("\n\n"):
            given = {key: value for key, value in fields(stanza).items() if key in _KEPT}
            name, version, size = (given.get(key, "") for key in ("Package", "Version", "Size"))
            if not name or not version or not size.isdecimal():
                continue
            old = self._newest.get(name)
            if old is None or compare(old.version, version) < 0:
                self._newest[name] = Package(name, version, int(size), given, uri)
        self._providers.clear()

    def newest(self, name: str) -> Package | None:
        """Return the newest version of a package, or None if there is none."""
        return self._newest.get(name)

    def closure(self, names: Sequence[str]) -> list[Package]:
        """Return `names` and all that they depend on, sorted by name."""
        chosen: dict[str, Package] = {}
        for name in names:
            if (package := self.newest(name)) is None:
                raise ImageError(f"{name}: {self._release} has no such package")
            chosen[name] = package
        waiting = list(chosen.values())
        while waiting:
            package = waiting.pop(0)
            for group in _wanted(package):
                found = self._choose(group, chosen)
                if found is None:
                    wanted = " or ".join(relation.name for relation in group)
                    raise ImageError(
                        f"{package.name} needs {wanted}, which {self._release} does not have"
                    )
                if found.name not in chosen:
                    chosen[found.name] = found
                    waiting.append(found)
        return [chosen[name] for name in sorted(chosen)]

    # --- inside

    def _choose(self, group: Sequence[Relation], chosen: Mapping[str, Package]) -> Package | None:
        found = [package for relation in group for package in self._matching(relation)]
        return next((p for p in found if p.name in chosen), found[0] if found else None)

    def _matching(self, relation: Relation) -> Iterator[Package]:
        package = self._newest.get(relation.name)
        if package is not None and relation.allows(package.version):
            yield package
        found = [
            self._newest[name]
            for name, version in self._provided().get(relation.name, ())
            if not relation.operator or (version and relation.allows(version))
        ]
        yield from sorted(found, key=_importance)

    def _provided(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the names and versions of those that provide a virtual package, by its name."""
        if not self._providers:
            for package in self._newest.values():
                for group in _relations(package.fields.get("Provides", "")):
                    entry = package.name, group[0].version
                    self._providers.setdefault(group[0].name, []).append(entry)
        return self._providers


def compare(one: str, other: str) -> int:
    """Return a number below, equal to or above 0, as the version `one` is older, equal or newer."""
    for a, b in zip(_split(one), _split(other), strict=True):
        if order := _compare_part(a, b):
            return order
    return 0


def _split(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return epoch, upstream, revision or "0"


@functools.lru_cache(maxsize=4096)
def _compare_part(one: str, other: str) -> int:
    """Compare text and numbers in turn."""
    first, second = _PARTS.findall(one), _PARTS.findall(other)
    for place in range(max(len(first), len(second))):
        text, number = first[place] if place < len(first) else ("", "")
        other_text, other_number = second[place] if place < len(second) else ("", "")
        if order := _compare_text(text, other_text):
            return order
        if order := int(number or 0) - int(other_number or 0):
            return order
    return 0


def _compare_text(one: str, other: str) -> int:
    """Compare texts in which "~" sorts before the end, and letters before all else."""
    for place in range(max(len(one), len(other))):
        ranks = [_rank(text[place : place + 1]) for text in (one, other)]
        if ranks[0] != ranks[1]:
            return ranks[0] - ranks[1]
    return 0


def _rank(character: str) -> int:
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256


def _importance(package: Package) -> int:
    priority = package.fields.get("Priority", "")
    return _PRIORITIES.index(priority) if priority in _PRIORITIES else len(_PRIORITIES)


def _wanted(package: Package) -> Iterator[Sequence[Relation]]:
    for key in ("Pre-Depends", "Depends"):
        yield from _relations(package.fields.get(key, ""))


def _relations(text: str) -> Iterable[Sequence[Relation]]:
    """Yield the groups of alternatives in a field such as Depends."""
    for part in text.split(","):
        group = [m for item in part.split("|") if (m := _RELATION.match(item)) is not None]
        if group:
            yield [Relation(m[1], m[2] or "", m[3] or "") for m in group]
