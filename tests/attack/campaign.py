"""Running hostile programs and looking at what they did to the host."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.attack.programs import Attack, attack
from tests.attack.room import Room
from tests.differential import guest
from tests.differential.isolate import Death, Progress, isolated
from tests.differential.layout import AREAS, DATA, STACK
from tests.differential.program import REGISTERS, State
from tests.fuzz.canary import MARK, leaked

_CR0_AM = 1 << 18
_R12 = REGISTERS.index("r12")
_LIMIT_S = 0.25
_CHECK = 50  # programs between looks at the farther canaries


@dataclass(frozen=True, slots=True)
class Task:
    """The programs of `count` seeds from `seed` on, by one processor in a process of its own."""

    seed: int
    count: int
    exact: bool


@dataclass(slots=True)
class Findings:
    """How many instructions the programs took, how they ended, and what they broke."""

    programs: int = 0
    steps: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Take another task's findings in."""
        self.programs += other.programs
        self.steps += other.steps
        self.kinds += other.kinds
        self.broken += other.broken


class Attacked:
    """A guest with canaries around all its windows."""

    def __init__(self, *, exact: bool) -> None:
        from tests.fuzz.victim import Victim

        self.victim = Victim(_LIMIT_S, exact=exact)
        self._touch_everything()
        self.room = Room((DATA, STACK))

    def _touch_everything(self) -> None:
        """Have a window of each area made, so that no region is taken later."""
        for cpl in (3, 0):
            for area in AREAS.values():
                registers = [area.linear + 8] * 16
                self.victim.run_bytes(bytes.fromhex("488b06f4"), registers, cpl, 0x202)
            registers = [DATA.linear + 0x1008] * 16
            registers[4] = STACK.linear + 0x1008
            self.victim.run_bytes(bytes.fromhex("48890650f4"), registers, cpl, 0x202)

    def run(self, one: Attack) -> tuple[str, int]:
        """Run a program; how it ended, and its steps.  Raises InternalError."""
        from ringlet.core.state import Exit

        cr0 = guest.CR0 | (_CR0_AM if one.alignment else 0)
        kind = self.victim.run_bytes(
            one.code, one.registers, one.cpl, one.rflags, data=one.table, cr0=cr0
        )
        return Exit(kind).name, one.steps(self.victim.processor.get("r12"))

    def harm(self) -> list[str]:
        """What the last program reached of the host's."""
        p = self.victim.processor
        values = [p.get(name) for name in REGISTERS]
        found = [f"the canary at {at:#x} changed" for at in self.room.changed()]
        if leaked(State(tuple(values), xsave=p.get_xsave())):
            found.append("a register holds a canary's contents")
        found += [
            f"{name} holds the host address {value:#x}"
            for name, value in zip(REGISTERS, values, strict=True)
            if self.room.is_host(value)
        ]
        if MARK.to_bytes(4, "little") in p.read_phys(0, guest.RAM_SIZE):
            found.append("the guest's memory holds a canary's contents")
        return found


def run_task(task: Task, progress: Progress) -> Findings:
    """Run a task's programs in this process."""
    from ringlet.errors import InternalError

    findings = Findings()
    attacked = Attacked(exact=task.exact)
    assert attacked.room.distances
    for i in range(task.count):
        progress(i)
        one = attack(task.seed + i, attacked.room.distances)
        findings.programs += 1
        try:
            kind, steps = attacked.run(one)
            harm = attacked.harm()
        except InternalError as error:
            findings.broken.append(f"seed {task.seed + i}: {error}: {one.text()}")
            return findings
        if i % _CHECK == 0 or i == task.count - 1:
            harm += attacked.victim.harm()
        findings.steps += steps
        findings.kinds[kind] += 1
        findings.broken += [f"seed {task.seed + i}: {what}: {one.text()}" for what in harm]
    attacked.victim.close()
    return findings


def run_isolated(task: Task) -> Findings:
    """Run a task in a process of its own; its death is a finding, and ends the task."""
    result = isolated(run_task, task)
    if isinstance(result, Death):
        what = f"seed {task.seed + result.index}: the process died with {result.exit_code}"
        return Findings(result.index + 1, broken=[what])
    assert isinstance(result, Findings)
    return result
