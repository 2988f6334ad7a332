"""`ringlet bench`: measures how fast guests run here, compared with the host and QEMU."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ringlet.bench import engines
from ringlet.config import parse_direct
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
    typer.Option(
        "--engine", help="native, ringlet, qemu or kvm; repeat for several. Default: all."
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--ringlet-option",
        metavar="OPTION",
        help="An option of `ringlet run`, such as --ringlet-option=--exact; repeat for several.",
    ),
]
Direct = Annotated[
    str | None, typer.Option("--direct", help="The same as --ringlet-option=--direct=CHOICE.")
]
Memory = Annotated[int, typer.Option(min=128, help="Guest RAM in MiB.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that one run may take.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Kernel = Annotated[
    Path | None, typer.Option(help="A bzImage. Default: Debian's cloud kernel, fetched once.")
]
Bits = Annotated[int, typer.Option(help="The width of the guest's code: 64 or 32.")]
CpuBits = Annotated[
    int, typer.Option(help="The width of the code: 64, 32, or 16, which runs in real mode.")
]


@bench_app.command()
def cpu(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 128,
    timeout: Timeout = 300.0,
    options: Options = None,
    direct: Direct = None,
    bits: CpuBits = 64,
    as_json: Json = False,
) -> None:
    """Measure ring-3 programs: ten sections, the same object code natively and in a guest.

    With --bits 16, loops as programs for DOS have them, which cannot run natively.
    """
    from ringlet.bench import toolchain

    selected = _selected(engine)
    if bits == 16:
        selected = [name for name in selected if name != engines.NATIVE]
        if not selected:
            raise ConfigError("--bits 16: no code in real mode runs natively; choose other engines")
        program = toolchain.build("real", bits=32)
    else:
        program = toolchain.build("cpu", bits=_width(bits, "64, 32 or 16"))
    _compare(program, selected, rounds, memory, timeout, _with(options, direct), as_json)


@bench_app.command()
def nano(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 128,
    timeout: Timeout = 300.0,
    options: Options = None,
    direct: Direct = None,
    as_json: Json = False,
) -> None:
    """Measure operations that virtualization slows: system calls, faults, ports, page tables."""
    from ringlet.bench import toolchain

    selected = _selected(engine)
    program = toolchain.build("nano")
    _compare(program, selected, rounds, memory, timeout, _with(options, direct), as_json)


@bench_app.command()
def linux(
    rounds: Rounds = 3,
    engine: Engines = None,
    memory: Memory = 512,
    timeout: Timeout = 300.0,
    kernel: Kernel = None,
    options: Options = None,
    direct: Direct = None,
    bits: Bits = 64,
    as_json: Json = False,
) -> None:
    """Measure a Linux guest: its start, programs, system calls, page faults, processes.

    With --bits 32 it is Debian's kernel for i686 with PAE.
    """
    from ringlet.bench import toolchain
    from ringlet.images.debian import CLOUD_KERNEL, PAE_KERNEL, fetch_kernel
    from ringlet.machine.loading import read_kernel

    selected = _selected(engine)
    if kernel is not None:
        read_kernel(kernel, memory << 20)
    package = CLOUD_KERNEL if _width(bits) == 64 else PAE_KERNEL
    program = toolchain.build_linux(kernel or fetch_kernel(package).vmlinuz, bits=bits)
    _compare(program, selected, rounds, memory, timeout, _with(options, direct), as_json)


@bench_app.command()
def programs(
    rounds: Rounds = 1,
    engine: Engines = None,
    rows: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="The rows to run, such as perl,rsa; a wrong name lists them. Default: all.",
        ),
    ] = "",
    quick: Annotated[bool, typer.Option(help="Run smaller sizes, about a tenth.")] = False,
    memory: Annotated[
        int, typer.Option(min=0, help="Guest RAM in MiB. Default: what each image needs.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Seconds that one row may take.")] = 300,
    kernel: Kernel = None,
    options: Options = None,
    direct: Direct = None,
    as_json: Json = False,
) -> None:
    """Measure Debian's programs: Python, node, Java, gcc, openssl, servers, scripts and others."""
    from rich.console import Console

    from ringlet.bench.debian import report
    from ringlet.bench.debian.places import Source, made_places
    from ringlet.bench.debian.rounds import PROGRAMS_MEMORY, Settings, compare
    from ringlet.bench.debian.rows import chosen
    from ringlet.bench.gauge import Gauge
    from ringlet.bench.toolchain import cache_directory
    from ringlet.images.store import Store, default_root
    from ringlet.machine.loading import read_kernel

    selected = _selected(engine)
    if kernel is not None:
        read_kernel(kernel, (memory or PROGRAMS_MEMORY) << 20)
    wanted = chosen([name for name in rows.split(",") if name])
    source = Source(cache_directory(), Store(default_root()), kernel)
    settings = Settings(rounds, quick, memory, limit, _with(options, direct))
    console = Console(stderr=True)
    with (
        console.status("programs") as status,
        made_places(wanted, source, status.update) as places,
        Gauge() as gauge,
    ):
        comparison = compare(wanted, places, selected, settings, status.update, gauge=gauge)
    if as_json:
        typer.echo(json.dumps(report.as_json(comparison), indent=2))
    else:
        width = max(Console().width, report.WIDTH)
        Console(width=width).print(report.tables(comparison))
    if comparison.errors:
        raise typer.Exit(1)


@bench_app.command("io")
def input_and_output(
    rounds: Rounds = 1,
    engine: Engines = None,
    rows: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="The rows to run, such as disk-read,net-in; a wrong name lists them. "
            "Default: all.",
        ),
    ] = "",
    quick: Annotated[bool, typer.Option(help="Run smaller sizes, about a tenth.")] = False,
    memory: Annotated[
        int, typer.Option(min=0, help="Guest RAM in MiB. Default: what each image needs.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, help="Seconds that one row may take.")] = 300,
    directory: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            exists=True,
            help="Where the disk's file (1 GiB) and the shared directory are made for the run. "
            "Default: the cache.",
        ),
    ] = None,
    options: Options = None,
    direct: Direct = None,
    as_json: Json = False,
) -> None:
    """Measure a disk (fio), a network (iperf3) and a shared directory (git, make)."""
    from rich.console import Console

    from ringlet.bench.debian import io_report, report
    from ringlet.bench.debian.places import Source, made_places
    from ringlet.bench.debian.rounds import Settings, compare
    from ringlet.bench.debian.rows import IO_ROWS, chosen
    from ringlet.bench.toolchain import cache_directory
    from ringlet.images.store import Store, default_root

    selected = _selected(engine)
    wanted = chosen([name for name in rows.split(",") if name], IO_ROWS)
    source = Source(cache_directory(), Store(default_root()), directory=directory)
    settings = Settings(rounds, quick, memory, limit, _with(options, direct), counting=False)
    # Without a gauge: what serves a device may use the host's other processors.
    with (
        Console(stderr=True).status("io") as status,
        made_places(wanted, source, status.update) as places,
    ):
        comparison = compare(wanted, places, selected, settings, status.update)
    if as_json:
        typer.echo(json.dumps(report.as_json(comparison, "io"), indent=2))
    else:
        width = max(Console().width, io_report.WIDTH)
        Console(width=width).print(io_report.table(comparison))
    if comparison.errors:
        raise typer.Exit(1)


@bench_app.command()
def translate(
    kernel: Annotated[
        Path | None,
        typer.Option(help="A bzImage or vmlinux. Default: Debian's cloud kernel, fetched once."),
    ] = None,
    megabytes: Annotated[
        float,
        typer.Option(min=0.01, max=1024, help="How many MiB of the kernel's text to translate."),
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


def _with(options: list[str] | None, direct: str | None) -> list[str]:
    """Return the options of `ringlet run`, with the choice of --direct if there is one."""
    choice = [f"--direct={parse_direct(direct)}"] if direct else []
    return [*(options or ()), *choice]


def _width(bits: int, known: str = "64 or 32") -> int:
    if bits not in (32, 64):
        raise ConfigError(f"--bits {bits}: choose {known}")
    return bits


def _compare(
    program: "Program",
    selected: list[str],
    count: int,
    memory: int,
    timeout: float,
    options: list[str] | None,
    as_json: bool,
) -> None:
    from rich.console import Console

    from ringlet.bench import report
    from ringlet.bench.gauge import Gauge
    from ringlet.bench.rounds import compare

    console = Console(stderr=True)
    with console.status(program.name) as status, Gauge(samples=False) as gauge:
        comparison = compare(
            program, selected, count, memory, timeout, status.update, options or (), gauge=gauge
        )
    if as_json:
        typer.echo(json.dumps(report.as_json(comparison), indent=2))
    else:
        Console().print(report.table(comparison))
    if comparison.errors:
        raise typer.Exit(1)


_NEEDS = {
    engines.QEMU: "engine 'qemu' needs qemu-system-x86_64; install QEMU",
    engines.KVM: "engine 'kvm' needs QEMU, a processor with vmx or svm, and /dev/kvm",
}


def _selected(chosen: list[str] | None) -> list[str]:
    """Return the chosen engines in the table's order."""
    available = engines.available()
    for name in chosen or ():
        if name not in engines.ENGINES:
            raise ConfigError(f"no engine {name!r}; choose from {', '.join(engines.ENGINES)}")
        if name not in available:
            raise ConfigError(_NEEDS[name])
    return [name for name in engines.ENGINES if name in (chosen or available)]
