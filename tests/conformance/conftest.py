"""Fixtures: guest programs, built once per session, and the reference engine on request."""

import os
import shutil
from collections.abc import Callable

import pytest

from tests.guests.build_guest import Guest, build


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reference(engine): runs guests under QEMU or the engine; only in CI and by -m reference",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = "reference" in config.getoption("markexpr") or bool(os.environ.get("CI"))
    for item in items:
        if mark := item.get_closest_marker("reference"):
            engine = mark.args[0] if mark.args else "qemu-system-x86_64"
            if not asked:
                item.add_marker(pytest.mark.skip(reason="the reference engine: -m reference"))
            elif shutil.which(engine) is None:
                item.add_marker(pytest.mark.skip(reason=f"no {engine}"))


@pytest.fixture(scope="session")
def guest_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Guest]:
    """Gives a program by name, built at its first use in the session."""
    directory = tmp_path_factory.mktemp("guests")
    built: dict[str, Guest] = {}

    def get(name: str) -> Guest:
        if name not in built:
            built[name] = build(name, directory)
        return built[name]

    return get
