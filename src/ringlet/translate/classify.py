"""Classes of instructions: those that run on the host, those with a rule, and undefined ones.

Every instruction that iced-x86 can decode is in exactly one class:

* `Refused`: the offered processor has no such instruction; the guest gets #UD.
* `Ruled`: it is sensitive (or cannot be translated in place); a rule defines its translation.
* `Innocuous`: it runs on the host's processor, registers renamed and memory operand rewritten.
"""

from dataclasses import dataclass
from typing import Final

from iced_x86 import Code_, Instruction, Mnemonic, OpCodeInfo

from ringlet.translate.features import NAMES, OFFERED, feature_name, missing
from ringlet.translate.rules import RULES
from ringlet.translate.rules.registry import Rule


@dataclass(frozen=True, slots=True)
class Innocuous:
    """Acts on nothing but general and vector registers, arithmetic flags and guest memory."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """The virtual processor performs `rule` instead."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Refused:
    """The offered processor raises #UD, because of `reason`."""

    reason: str


Classification = Innocuous | Ruled | Refused

_OLDER_MEANING: Final = frozenset(
    {Mnemonic.TZCNT, Mnemonic.LZCNT, Mnemonic.PREFETCHW, Mnemonic.PREFETCHWT1}
)
"""Encodings that are BSF, BSR or NOPs without the feature, and so never raise #UD."""


def classify(code: int, mode: int = 64, features: frozenset[str] = OFFERED) -> Classification:
    """Return the class of the iced-x86 `Code` `code` in 16-, 32- or 64-bit code.

    `features` are the names of `ringlet.translate.features` that the virtual processor has.
    """
    info = OpCodeInfo(Code_(code))
    if not info.is_instruction:
        return Refused("no such instruction")
    if not info.is_available_in_mode(mode):
        return Refused(f"no such instruction in {mode}-bit code")
    rule = RULES.get(code)
    if rule is not None and rule.absent:
        return Ruled(rule)
    instruction = Instruction()
    instruction.code = Code_(code)
    lacking = missing(instruction.cpuid_features(), features)
    older = instruction.mnemonic in _OLDER_MEANING and all(f in NAMES for f in lacking)
    if lacking and not older:
        return Refused(f"the processor lacks {', '.join(map(feature_name, lacking))}")
    if rule is not None:
        return Ruled(rule)
    if info.is_privileged or instruction.is_privileged:
        return Refused("privileged, and the virtual processor has no operation for it")
    return Innocuous()
