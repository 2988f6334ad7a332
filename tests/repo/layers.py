"""The layers of the package, as pyproject.toml declares them for import-linter."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "ringlet"
PROBES = ROOT / "tests" / "probes"


def layers() -> list[list[str]]:
    """Return the layers from the highest down; those in one list are siblings."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (c for c in settings["contracts"] if c["id"] == "layers")
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]


def height(name: str) -> int | None:
    """Return the height of package `name`, the lowest layer being 0; None if it has none."""
    for level, names in enumerate(reversed(layers())):
        if name in names:
            return level
    return None


def may_import(importer: str, imported: str) -> bool:
    """Tell whether package `importer` may import package `imported`."""
    if importer == imported:
        return True
    above, below = height(importer), height(imported)
    return above is not None and below is not None and above > below
