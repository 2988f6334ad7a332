"""Asking a guest to turn itself off: its agent first, then its power button."""

from __future__ import annotations

import threading
import time
from typing import cast

import pytest

from ringlet.control import turning_off
from ringlet.control.board import Board
from ringlet.control.turning_off import turn_off

PATIENCE = 20.0


class Guest:
    """A guest that ends when it was asked `ends_after` times, and what it was asked."""

    def __init__(self, *, agent: list[bool], heeds: bool = False, ends_after: int = 0) -> None:
        self.asked: list[str] = []
        self.ended = threading.Event()
        self._agent = agent
        self._heeds = heeds
        self._left = ends_after

    def press_power_button(self) -> bool:
        return self._answer("button", answers=self._heeds)

    def ask(self, seconds: float) -> bool:
        assert 0 < seconds <= turning_off.ASK_AGAIN_S
        return self._answer("agent", answers=self._agent.pop(0) if self._agent else False)

    def _answer(self, who: str, *, answers: bool) -> bool:
        self.asked.append(who)
        if answers:
            self._left -= 1
            if self._left == 0:
                self.ended.set()
        return answers

    def turn_off(self, seconds: float = PATIENCE) -> list[str]:
        turn_off(cast("Board", self), self.ask, self.ended, time.monotonic() + seconds)
        return self.asked


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning_off, "ASK_AGAIN_S", 0.02)


def test_agent_is_asked() -> None:
    assert Guest(agent=[True], heeds=True, ends_after=1).turn_off() == ["agent"]


def test_agent_is_asked_again() -> None:
    assert Guest(agent=[True, True], ends_after=2).turn_off() == ["agent"] * 2


def test_button_is_for_guests_whose_agent_does_not_answer() -> None:
    guest = Guest(agent=[], heeds=True, ends_after=2)

    assert guest.turn_off() == ["agent", "button"] * 2


def test_agent_that_answers_later_is_asked() -> None:
    guest = Guest(agent=[False, True], heeds=True, ends_after=2)

    assert guest.turn_off() == ["agent", "button", "agent"]


def test_button_is_not_pressed_once_the_agent_has_answered() -> None:
    """The guest ends its agent on the way."""
    guest = Guest(agent=[True], heeds=True)

    assert "button" not in guest.turn_off(0.2)
    assert not guest.ended.is_set()


def test_guest_that_heeds_nothing_is_given_up_at_once() -> None:
    start = time.monotonic()

    assert Guest(agent=[]).turn_off() == ["agent", "button"]
    assert time.monotonic() - start < PATIENCE / 2


def test_guest_that_does_nothing_is_given_its_time() -> None:
    guest = Guest(agent=[], heeds=True)
    start = time.monotonic()
    guest.turn_off(0.2)

    assert time.monotonic() - start >= 0.2


def test_guest_that_has_ended_is_not_asked() -> None:
    guest = Guest(agent=[True], heeds=True)
    guest.ended.set()

    assert guest.turn_off() == []
