"""`Registry`: the rules of sensitive instructions, by iced-x86 `Code`.

A rule is a function without parameters that returns an `Op`.  Its docstring is its reason and says
three things: why the instruction is sensitive, which faults the virtual processor raises for it,
and how it leaves translated code.  The registry only holds rules and makes no decision.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from iced_x86 import Code

from ringlet.core.ops import Op


class RegistryError(Exception):
    """Two rules for one instruction, or a rule without a reason: a defect of the rules."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The operation that replaces some instructions, and its reason.

    `op` is the virtual processor's operation; `OP_NONE` means that the instruction does nothing, so
    no code is emitted for it.  `manual` names the section of the Intel SDM.
    `robin_irvine` marks the sensitive, unprivileged instructions of Robin & Irvine 2000.
    `absent` marks encodings that are defined on some processors but not on the virtual one: the
    rule holds whether or not the features of the instruction are offered.
    """

    name: str
    op: Op
    reason: str
    manual: str
    codes: tuple[int, ...]
    robin_irvine: bool = False
    absent: bool = False


class Registry(Mapping[int, Rule]):
    """Rules by `Code`; each code has at most one."""

    def __init__(self) -> None:
        self._by_code: dict[int, Rule] = {}

    def rule(
        self, *codes: int, manual: str, robin_irvine: bool = False, absent: bool = False
    ) -> Callable[[Callable[[], Op]], Rule]:
        """Register the decorated function as the rule of `codes`.

        Raises `RegistryError` if a code has a rule already or if the function gives no reason.
        """

        def register(function: Callable[[], Op]) -> Rule:
            reason = " ".join((function.__doc__ or "").split())
            if not reason or not codes:
                raise RegistryError(f"the rule {function.__name__} lacks a reason or instructions")
            rule = Rule(function.__name__, function(), reason, manual, codes, robin_irvine, absent)
            self.add(rule)
            return rule

        return register

    def add(self, rule: Rule) -> None:
        """Register `rule` for all its codes, or raise `RegistryError` and register none."""
        for code in rule.codes:
            if code in self._by_code or rule.codes.count(code) > 1:
                other = self._by_code.get(code, rule)
                raise RegistryError(
                    f"{code_name(code)} is registered twice, by {other.name} and {rule.name}"
                )
        for code in rule.codes:
            self._by_code[code] = rule

    def rules(self) -> list[Rule]:
        """Return every rule once, in the order of registration."""
        return list(dict.fromkeys(self._by_code.values()))

    def __getitem__(self, code: int) -> Rule:
        return self._by_code[code]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_code)

    def __len__(self) -> int:
        return len(self._by_code)


def union(*registries: Registry) -> Registry:
    """Return one registry with the rules of all; a code in two of them raises `RegistryError`."""
    result = Registry()
    for registry in registries:
        for rule in registry.rules():
            result.add(rule)
    return result


def code_name(code: int) -> str:
    """Return iced-x86's name of a `Code` value, for messages."""
    return CODE_NAMES.get(code, f"code {code}")


CODE_NAMES: Mapping[int, str] = MappingProxyType(
    {value: name for name, value in vars(Code).items() if isinstance(value, int)}
)
