"""Reduction of a program that shows a difference to its smallest and simplest form."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.differential import xsave
from tests.differential.operands import RSP
from tests.differential.program import Program
from tests.differential.segments import STACK_HIGH

_ROUNDS = 6


def _fewer_items(program: Program) -> Iterator[Program]:
    for i in reversed(range(len(program.items))):
        if not program.items[i].tied:
            yield program.without(i)


def _plainer_state(program: Program) -> Iterator[Program]:
    state = program.state
    if state.xsave != xsave.INIT:
        yield replace(program, state=replace(state, xsave=xsave.INIT))
        fields = xsave.fields(xsave.canonical(state.xsave))
        plain = xsave.fields(xsave.canonical(xsave.INIT))
        for name, text in fields.items():
            if text != plain[name]:
                image = xsave.from_fields({**fields, name: plain[name]})
                yield replace(program, state=replace(state, xsave=image))
    if state.rflags != 0x202:
        yield replace(program, state=replace(state, rflags=0x202))
    if state.fs_base or state.gs_base:
        yield replace(program, state=replace(state, fs_base=0, gs_base=0))
    for i, value in enumerate(state.gpr):
        for simple in (0, 1):
            if i == RSP and value >> 16 == STACK_HIGH:
                simple |= STACK_HIGH << 16
            if value > simple:
                gpr = (*state.gpr[:i], simple, *state.gpr[i + 1:])
                yield replace(program, state=replace(state, gpr=gpr))
    for i in range(len(program.patches)):
        yield replace(program, patches=program.patches[:i] + program.patches[i + 1:])


def shrink(program: Program, differs: Callable[[Program], bool],
           seconds: float = 5.0) -> Program:
    """Return the smallest program found in that time for which `differs` still holds."""
    end = time.monotonic() + seconds
    for candidates in (_fewer_items, _plainer_state) * _ROUNDS:
        found = True
        while found:
            found = False
            for candidate in candidates(program):
                if time.monotonic() > end:
                    return program
                try:
                    holds = differs(candidate)
                except ValueError:  # a branch no longer reaches
                    continue
                if holds:
                    program = candidate
                    found = True
                    break
    return program
