"""`ringlet explain`: shows guest code beside the translated code that replaces it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ringlet.cli.streams import emit
from ringlet.errors import ConfigError
from ringlet.flat_spec import parse_flat


def explain(
    target: Annotated[
        str, typer.Argument(metavar="[PATH:SYMBOL]", help="A function of an ELF file.")
    ] = "",
    hex_bytes: Annotated[
        str | None, typer.Option("--hex", help='Guest code in hexadecimal, such as "48 8b 07 c3".')
    ] = None,
    elf: Annotated[Path | None, typer.Option(help="An ELF file, with --symbol.")] = None,
    symbol: Annotated[str, typer.Option(help="The function in the ELF file.")] = "",
    file: Annotated[Path | None, typer.Option(help="Any file, with --offset and --length.")] = None,
    offset: Annotated[str, typer.Option(help="Offset of the code in the file.")] = "0",
    length: Annotated[
        str, typer.Option(help="Number of bytes. Default: up to the end of the file.")
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            metavar="LINEAR",
            help="Linear address of the first byte, or SEGMENT:OFFSET in 16-bit code. Default: "
            "that of the function, or 0x401000, or 0x7c00 in 16-bit code.",
        ),
    ] = "",
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="16|32|64",
            help="Size of the code segment. Default: that of the ELF file, or 64.",
        ),
    ] = None,
    segmented: Annotated[
        bool | None,
        typer.Option(
            "--segmented/--no-segmented",
            help="Whether the segments of 16- and 32-bit code are other than flat ones, so that "
            "accesses are checked. Default: in 16-bit code they are those of real mode.",
        ),
    ] = None,
    cpl: Annotated[int, typer.Option(help="Privilege level of the code: 0 or 3.")] = 0,
    speculate: Annotated[
        bool,
        typer.Option(
            "--speculate/--no-speculate", help="Translate as runs do without or with --exact."
        ),
    ] = True,
    thunk: Annotated[
        bool,
        typer.Option(
            "--thunk", help="Also show the code that checks the target of an indirect jump."
        ),
    ] = False,
    with_bytes: Annotated[bool, typer.Option("--bytes", help="Also show the bytes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the translation of guest code: hexadecimal bytes, a function, or a part of a file.

    Instructions marked = run unchanged. r8 and r9 are scratch registers.

    In 16- and 32-bit code r10 is linear address 0 of the guest, r11 is 63.

    Each sensitive instruction has its reason and the section of Intel's manual.
    """
    # Imported late, so that help and other commands do not wait for the translator.
    from ringlet.explain import render, source
    from ringlet.explain.listing import explain as list_code
    from ringlet.explain.listing import segments_key

    if cpl not in (0, 3):
        raise ConfigError(f"--cpl {cpl}: the translator knows only 0 and 3; give one of them")
    if bits not in (None, 16, 32, 64):
        raise ConfigError(f"--bits {bits}: code has 16, 32 or 64 bits; give one of them")
    linear = _linear(at, bits) if at else None
    start = (source.DEFAULT_IP if bits == 16 else source.DEFAULT_LINEAR)
    start = start if linear is None else linear
    if symbol and not elf:
        raise ConfigError("--symbol needs a file; give --elf FILE --symbol NAME")
    if sum(1 for given in (target, hex_bytes, elf, file) if given not in ("", None)) != 1:
        raise ConfigError("give one thing to explain: PATH:SYMBOL, --hex, --elf or --file")
    if hex_bytes is not None:
        code = source.from_hex(hex_bytes, start)
    elif file is not None:
        size = _number("--length", length, 1 << 63) if length else None
        code = source.from_file(file, _number("--offset", offset, 1 << 63), size, start)
    else:
        path, name = _function(target) if elf is None else (elf, symbol)
        if not name:
            raise ConfigError(f"--elf needs a function; give --elf {path} --symbol NAME")
        code = source.from_symbol(path, name, linear)
    size = bits or code.bits
    if code.linear >> size:
        raise ConfigError(
            f"{code.name}: {size}-bit code cannot be at {code.linear:#x}; give --at ADDRESS"
        )
    flags = segments_key(size, segmented=size == 16 if segmented is None else segmented)
    listing = list_code(code, cpl, speculate, thunk, flags, bits=size)
    if not listing.fragments:
        raise ConfigError(f"{code.name}: {code.data.hex(' ')} is not a whole instruction")
    if as_json:
        emit(json.dumps(render.as_json(listing), indent=2))
    elif sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        for line in render.layout(listing, with_bytes):
            console.print(Text.assemble(*((s.text, s.style) for s in line)), soft_wrap=True)
    else:
        emit(render.as_text(listing, with_bytes).removesuffix("\n"))


def _function(target: str) -> tuple[Path, str]:
    path, colon, name = target.rpartition(":")
    if not colon or not path or not name:
        raise ConfigError(f"{target}: give PATH:SYMBOL, --hex for bytes, or --file for a part")
    return Path(path), name


def _linear(text: str, bits: int | None) -> int:
    """Return the address that --at names; in 16-bit code perhaps as SEGMENT:OFFSET."""
    if bits == 16 and ":" in text:
        try:
            return parse_flat(f"16@{text}", "--at").address
        except ConfigError:
            raise ConfigError(f"--at {text}: give an address, or SEGMENT:OFFSET") from None
    return _number("--at", text, 1 << (bits or 64))


def _number(flag: str, text: str, limit: int) -> int:
    try:
        value = int(text[:-1], 16) if text[-1:] in {"h", "H"} else int(text, 0)
    except ValueError:
        raise ConfigError(f"{flag} {text}: not a number; give one such as 4096 or 0x1000") from None
    if not 0 <= value < limit:
        raise ConfigError(f"{flag} {text}: out of range")
    return value
