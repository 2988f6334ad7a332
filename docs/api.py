# ruff: noqa: INP001 - its test imports it by its folder
"""Writes docs/api.md, the page on the Python interface, from its docstrings: `python -m docs.api`.

A test compares the page with what this makes (tests/repo/test_api_page.py).
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import ringlet
from ringlet import errors

PAGE: Final = Path(__file__).parent / "api.md"
_HEAD: Final = """# The Python interface

Made from the docstrings by `python -m docs.api`; do not edit. [python.md](python.md) introduces it.

Everything here is a name of the package: `import ringlet`. Times are in seconds, sizes and
addresses in bytes, unless a line says otherwise.
"""
_FIRST: Final = ("Machine", "AsyncMachine", "Console", "AsyncConsole", "Memory", "Cpu")
_MADE_BY_MACHINES: Final = ("Console", "AsyncConsole", "Memory", "Cpu")
_FOR_MACHINES: Final = ("vm", "take", "end", "forget")
"""Methods that the parts of a machine call."""

_MODULES: Final = re.compile(r"\b(?:ringlet\.[\w.]+\.|pathlib\.|collections\.abc\.|typing\.|re\.)")
_UNPACKED: Final = re.compile(r"\*<class '([\w.]+)'>")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


def page() -> str:
    """Return the page."""
    rest = [name for name in ringlet.__all__ if name not in _FIRST and not _is_error(name)]
    lines = [_HEAD]
    for name in (*_FIRST, *rest):
        lines += _class(name)
    lines += ["## Errors\n", *_indented(inspect.cleandoc(errors.__doc__ or "")), ""]
    return "\n".join(lines).rstrip() + "\n"


def _is_error(name: str) -> bool:
    thing = getattr(ringlet, name)
    return isinstance(thing, type) and issubclass(thing, Exception)


def _class(name: str) -> Iterator[str]:
    thing = getattr(ringlet, name)
    yield f"## {name}\n"
    if "__init__" in vars(thing) and name not in _MADE_BY_MACHINES:
        yield from _code(name, thing)
    yield _text(thing)
    if name.startswith("Async"):
        same = [m for m, value in vars(thing).items() if inspect.iscoroutinefunction(value)]
        words = ", ".join(f"`{m}`" for m in same if not m.startswith("_"))
        yield f"Awaitable, with the parameters of `{name.removeprefix('Async')}`: {words}.\n"
    for member, value in vars(thing).items():
        if member.startswith("_") or member in _FOR_MACHINES or inspect.isclass(value):
            continue
        if inspect.iscoroutinefunction(value):
            continue
        function = getattr(value, "__func__", value)
        if isinstance(value, property):
            yield f"### {name}.{member}\n"
            yield _text(value)
        elif inspect.isroutine(function) and inspect.getdoc(function):
            yield f"### {name}.{member}\n"
            yield from _code(member, function)
            yield _text(function)


def _code(name: str, thing: object) -> Iterator[str]:
    """Yield a signature, with a parameter a line if it is long."""
    signature = inspect.signature(thing)  # type: ignore[arg-type]  # a class or a function
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    result = signature.return_annotation
    arrow = "" if result is inspect.Signature.empty else f" -> {inspect.formatannotation(result)}"
    prefix = "async " if inspect.iscoroutinefunction(thing) else ""
    short = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    line = _plain(f"{prefix}{name}{short}{arrow}")
    if len(line) > 92:
        texts = [f"    {p}," for p in parameters]
        stars = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
        if stars is not None:
            texts.insert(stars, "    *,")
        line = _plain("\n".join([f"{prefix}{name}(", *texts, f"){arrow}"]))
    yield f"```python\n{line}\n```\n"


def _plain(text: str) -> str:
    return _ADDRESS.sub("", _MODULES.sub("", _UNPACKED.sub(r"Unpack[\1]", text)))


def _text(thing: object) -> str:
    """Return a docstring; its indented parts stay code, as they are in Markdown."""
    return (inspect.getdoc(thing) or "") + "\n"


def _indented(text: str) -> Iterator[str]:
    yield from text.splitlines()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
