"""`ringlet bench`: measures how fast guests run here, compared with the host and QEMU."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringlet.bench import engines
from ringlet.errors import ConfigError

if TYPE_CHECKING:
    from ringlet.bench.toolchain import Program

bench_app = typer.Typer(
    name="bench",
    help="Measure programs natively, under Ringlet, and under QEMU if it is installed.",
    no_args_is_help=True,
)

Rounds = Annotated[
    int, typer.Option(min=1, help="Number of interleaved rounds; the minimum of them counts.")
]
Engines = Annotated[
    list[str] | None,
    typer.Option("--engine", help="native, ringlet or qemu; repeat for several. Default: all."),
]
Memory = Annotated[int, typer.Option(min=128, help="Guest RAM in MiB.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@bench_app.command()
def cpu(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 128,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Measure ring-3 programs: ten sections, the same object code natively and in a guest."""
    _build_and_compare("cpu", rounds, engine, memory, timeout, as_json)


@bench_app.command()
def nano(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 128,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Measure operations that virtualization slows: system calls, faults, ports, page tables."""
    _build_and_compare("nano", rounds, engine, memory, timeout, as_json)


@bench_app.command()
def linux(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 512,
    timeout: Timeout = 300.0,
    kernel: Annotated[
        Path | None, typer.Option(help="A bzImage. Default: Debian's cloud kernel, fetched once.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a Linux guest: its start, programs, system calls, page faults, processes."""
    from ringlet.bench import toolchain
    from ringlet.images.debian import fetch_kernel
    from ringlet.machine.linux import read_kernel

    selected = _selected(engine)
    if kernel is not None:
        read_kernel(kernel, memory << 20)
    program = toolchain.build_linux(kernel or fetch_kernel().vmlinuz)
    _compare(program, selected, rounds, memory, timeout, as_json)


@bench_app.command()
def translate(
    kernel: Annotated[
        Path | None,
        typer.Option(help="A bzImage or vmlinux. Default: Debian's cloud kernel, fetched once."),
    ] = None,
    megabytes: Annotated[
        float, typer.Option(min=0.01, help="How many MiB of the kernel's text to translate.")
    ] = 4.0,
    as_json: Json = False,
) -> None:
    """Measure the translator on a kernel's text: speed cold and warm, expansion, cache use."""
    # Imported late, because only benchmarks need these modules.
    from rich.console import Console

    from ringlet.bench import report, translation
    from ringlet.bench.kernel import kernel_text

    text, linear = kernel_text(kernel)
    throughput = translation.measure(text[: int(megabytes * 2**20)], linear)
    if as_json:
        typer.echo(json.dumps(report.throughput_json(throughput), indent=2))
    else:
        Console().print(report.throughput_table(throughput))


def _build_and_compare(
    name: str, count: int, chosen: list[str] | None, memory: int, timeout: float, as_json: bool
) -> None:
    from ringlet.bench import toolchain

    selected = _selected(chosen)
    _compare(toolchain.build(name), selected, count, memory, timeout, as_json)


def _compare(
    program: "Program", selected: list[str], count: int, memory: int, timeout: float, as_json: bool
) -> None:
    from rich.console import Console

    from ringlet.bench import report
    from ringlet.bench.rounds import compare

    console = Console(stderr=True)
    with console.status(program.name) as status:
        comparison = compare(program, selected, count, memory, timeout, status.update)
    if as_json:
        typer.echo(json.dumps(report.as_json(comparison), indent=2))
    else:
        Console().print(report.table(comparison))


def _selected(chosen: list[str] | None) -> list[str]:
    """Return the chosen engines in the table's order."""
    available = engines.available()
    for name in chosen or ():
        if name not in engines.ENGINES:
            raise ConfigError(f"no engine {name!r}; choose from {', '.join(engines.ENGINES)}")
        if name not in available:
            raise ConfigError(f"engine {name!r} needs qemu-system-x86_64; install QEMU")
    return [name for name in engines.ENGINES if name in (chosen or available)]
