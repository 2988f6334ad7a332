"""The table of counters: the name, unit and description of each (`ringlet run --stats`).

Hot paths only add to an integer.  Compiled code keeps its counters in `CpuState` (fields `n_*`)
and names them in `Processor.counters`; the machine keeps its own in Python.  This table describes
both.  The forms that the general emulator performed follow the counters (`format_forms`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Counter:
    """The description of one counter."""

    name: str
    unit: str
    description: str


@dataclass(frozen=True, slots=True)
class EmulatedForm:
    """An instruction form that the general emulator performed, as the manual writes it."""

    name: str
    count: int
    of_devices: int
    """How many of them accessed a device."""


PROCESSOR_COUNTERS: Final = (
    Counter("exits", "exits", "exits from translated code to the run loop"),
    Counter("ops", "operations", "sensitive instructions performed by the virtual processor"),
    Counter("emulated", "instructions", "instructions performed by the general emulator"),
    Counter("links", "links", "exits by direct jumps, which are then patched"),
    Counter("indirect_misses", "jumps", "indirect jumps and returns not found in the jump table"),
    Counter("lookups", "lookups", "fragments looked up by guest address"),
    Counter("fragments", "fragments", "fragments translated"),
    Counter("kept_fragments", "fragments", "fragments reused from kept translations"),
    Counter("guest_instructions", "instructions", "guest instructions translated"),
    Counter("code_bytes", "bytes", "host code made by the translator"),
    Counter("guest_bytes", "bytes", "guest code read by the translator"),
    Counter("shadow_faults", "faults", "host faults resolved by mapping pages into a window"),
    Counter("shadow_pages", "pages", "4 KiB pages mapped into windows"),
    Counter("guest_faults", "faults", "host faults that became guest exceptions"),
    Counter("interrupts", "interrupts", "external interrupts delivered to the guest"),
    Counter("exceptions", "exceptions", "exceptions delivered to the guest"),
    Counter("code_writes", "writes", "guest writes to pages that hold translated code"),
    Counter("stale_fragments", "fragments", "fragments whose guest bytes had changed on entry"),
    Counter("flushes", "flushes", "times the oldest part of the code cache was emptied, or all"),
    Counter("cr3_loads", "loads", "loads of CR3"),
    Counter("cr3_dropped", "pages", "pages dropped from windows because a CR3 load changed them"),
    Counter("spaces_full", "times", "an address space was forgotten: a new one needed its place"),
    Counter("groups_full", "times", "a group of address spaces was forgotten for the same reason"),
    Counter("regions_full", "times", "no window was left to take"),
    Counter("nodes_full", "times", "the records of page tables were full and room was made"),
    Counter("maps_full", "times", "the host's limit on mappings was near and room was made"),
    Counter("direct_runs", "runs", "times user code went on directly on the processor"),
    Counter("direct_calls", "calls", "system calls made there"),
    Counter("direct_faults", "faults", "page faults taken there"),
    Counter("direct_steps", "instructions", "other instructions that trapped there"),
    Counter("direct_holds", "times", "code that cannot run directly was reached there"),
    Counter("direct_spaces", "times", "an address space changed over to direct execution"),
    Counter("direct_backs", "times", "an address space changed back to translated code"),
    Counter("direct_lost", "processes", "direct processes that died or were attacked"),
    Counter("invlpg", "instructions", "INVLPG instructions performed"),
    Counter("port_reads", "accesses", "port reads"),
    Counter("port_writes", "accesses", "port writes"),
    Counter("mmio_reads", "accesses", "reads where there is no RAM"),
    Counter("mmio_writes", "accesses", "writes where there is no RAM"),
    Counter("device_sites", "instructions", "instructions that became direct device accesses"),
    Counter("device_ends", "instructions", "of these, those that ceased to be: they met RAM"),
    Counter("device_ops", "accesses", "accesses by such instructions, without a host fault"),
    Counter("doorbells", "writes", "writes that only notified, passed on without Python"),
    Counter("jump_tables", "tables", "jump tables taken away for other modes or spaces"),
    Counter("msr_reads", "instructions", "RDMSR at CPL 0"),
    Counter("msr_writes", "instructions", "WRMSR at CPL 0"),
    Counter("cpuid", "instructions", "CPUID"),
    Counter("halts", "instructions", "HLT at CPL 0"),
    Counter("python_exits", "exits", "exits that the machine handled in Python"),
    Counter("safepoints", "stops", "times the run loop stopped to handle requests"),
    Counter("fragments_live", "fragments", "fragments in the code cache now"),
    Counter("shapes", "shapes", "instruction shapes known now"),
    Counter("shapes_emptied", "times", "the shape table was full and was emptied"),
    Counter("kept_emptied", "times", "no room was left to keep translations in"),
    Counter("code_cache_used", "bytes", "host code in the code cache now"),
    Counter("code_cache_size", "bytes", "size of the code cache"),
)

MACHINE_COUNTERS: Final = (
    Counter("machine_mmio", "accesses", "accesses to guest physical addresses without RAM"),
    Counter("machine_halts", "halts", "times the guest waited in HLT"),
    Counter("machine_kicks", "kicks", "times the vCPU was interrupted to check timers"),
    Counter("machine_injected", "interrupts", "vectors passed from the 8259 to the processor"),
    Counter("machine_entry_ns", "ns", "start of the run, for benchmarks (monotonic clock)"),
    Counter("machine_wall_ns", "ns", "wall time of the run"),
)

COUNTERS: Final = {c.name: c for c in (*PROCESSOR_COUNTERS, *MACHINE_COUNTERS)}


def format_stats(values: Mapping[str, int]) -> Iterable[str]:
    """Yield a line for each counter in `values`: first in the table's order, then unknown names."""
    names = [name for name in COUNTERS if name in values]
    names += sorted(name for name in values if name not in COUNTERS)
    for name in names:
        counter = COUNTERS.get(name, Counter(name, "", ""))
        yield f"{name:<20} {values[name]:>16,} {counter.unit:<13} {counter.description}".rstrip()


_FORMS_SHOWN: Final = 10


def format_forms(forms: Sequence[EmulatedForm]) -> Iterable[str]:
    """Yield a line for each of the first ten `forms`: name, count, count of device accesses.

    The counter `emulated` is the sum of all counts.  A form whose instructions rarely access a
    device, but are frequent, costs a program tens of microseconds each time.
    """
    for form in forms[:_FORMS_SHOWN]:
        yield (
            f"emulated: {form.name:<40} {form.count:>14,} instructions, "
            f"{form.of_devices:,} of them at devices"
        )
    if len(forms) > _FORMS_SHOWN:
        rest = sum(form.count for form in forms[_FORMS_SHOWN:])
        yield f"emulated: {len(forms) - _FORMS_SHOWN} other forms, {rest:,} instructions"
