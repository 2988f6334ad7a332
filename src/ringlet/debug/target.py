"""The description of the processor that gdb asks for (GDB manual, appendix G)."""

from typing import Final

from ringlet.debug.layouts import Layout
from ringlet.debug.registers import Feature

_EFLAGS: Final = (
    ("CF", 0), ("", 1), ("PF", 2), ("AF", 4), ("ZF", 6), ("SF", 7), ("TF", 8), ("IF", 9),
    ("DF", 10), ("OF", 11), ("NT", 14), ("RF", 16), ("VM", 17), ("AC", 18), ("VIF", 19),
    ("VIP", 20), ("ID", 21),
)  # fmt: skip
_MXCSR: Final = (
    ("IE", 0), ("DE", 1), ("ZE", 2), ("OE", 3), ("UE", 4), ("PE", 5), ("DAZ", 6), ("IM", 7),
    ("DM", 8), ("ZM", 9), ("OM", 10), ("UM", 11), ("PM", 12), ("FZ", 15),
)  # fmt: skip
_VECTORS: Final = (
    ("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16),
    ("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2),
)  # fmt: skip
_GROUPS: Final = {"i387_ext": "float", "vec128": "vector", "uint128": "vector"}


def _flags(name: str, fields: tuple[tuple[str, int], ...]) -> list[str]:
    return [
        f'<flags id="{name}" size="4">',
        *(f'<field name="{field}" start="{bit}" end="{bit}"/>' for field, bit in fields),
        "</flags>",
    ]


def _types(feature: Feature) -> list[str]:
    if feature.name.endswith(".core"):
        return _flags("i386_eflags", _EFLAGS)
    if not feature.name.endswith(".sse"):
        return []
    return [
        *(f'<vector id="{name}" type="{of}" count="{n}"/>' for name, of, n in _VECTORS),
        '<union id="vec128">',
        *(f'<field name="{name}" type="{name}"/>' for name, _, _ in _VECTORS),
        '<field name="uint128" type="uint128"/>',
        "</union>",
        *_flags("i386_mxcsr", _MXCSR),
    ]


def _feature(feature: Feature) -> list[str]:
    lines = [f'<feature name="{feature.name}">', *_types(feature)]
    for register in feature.registers:
        group = _GROUPS.get(register.kind, "")
        if feature.name.endswith(".system"):
            group = "system"
        grouped = f' group="{group}"' if group else ""
        lines.append(
            f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.kind}"'
            f"{grouped}/>"
        )
    return [*lines, "</feature>"]


def describe(layout: Layout) -> bytes:
    """Return the description of `layout`, target.xml."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        f"<architecture>{layout.architecture}</architecture>",
        *(f"<compatible>{name}</compatible>" for name in layout.compatible),
    ]
    for feature in layout.features:
        lines += _feature(feature)
    return "\n".join([*lines, "</target>", ""]).encode("ascii")
