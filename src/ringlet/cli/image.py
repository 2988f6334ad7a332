"""`ringlet image`: builds, fetches, imports, lists and removes images of guests."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from ringlet.cli.groups import Commands
from ringlet.cli.progress import Progress
from ringlet.cli.streams import complain, emit
from ringlet.config import format_size, parse_memory
from ringlet.errors import ConfigError, RingletError
from ringlet.images.building import NAME, Runner, build_debian
from ringlet.images.catalog import Image, Images
from ringlet.images.imports import SIZE, import_image, pull
from ringlet.images.names import check_name

_LEAST: Final = 256 << 20
_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def image_app(runner: Callable[[], Runner]) -> typer.Typer:
    """Return the command `image`; `runner` gives what runs the guest that sets Debian up."""
    app = typer.Typer(
        cls=Commands, help="Build, fetch, import, list and remove images.", no_args_is_help=True
    )

    @app.command()
    def build(
        name: Annotated[str, typer.Argument(help="debian, or debian:python3")] = NAME,
    ) -> None:
        """Build Debian's image anew, from its newest packages."""
        run_build(name, runner())

    @app.command(name="pull")
    def pull_command(
        name: Annotated[str, typer.Argument(help="an image such as docker://python:3.12")],
    ) -> None:
        """Fetch an image from a registry."""
        with Progress(f"fetching {name}") as progress:
            image = pull(name, Images(), progress.step, again=True)
        emit(_line(image))

    @app.command(name="import")
    def import_command(
        source: Annotated[str, typer.Argument(help="FILE.tar, FILE.qcow2, oci:DIR")],
        name: Annotated[str, typer.Option("--name", help="the image's name")] = "",
        size: Annotated[str, typer.Option("--size", help="size of the guest's disk")] = "",
    ) -> None:
        """Make an image from an archive, an OCI image or a cloud image."""
        with Progress(f"importing {source}") as progress:
            image = import_image(
                source, Images(), progress.step, name=check_name(name) if name else "",
                size=parse_memory(size, name="--size", least=_LEAST) if size else SIZE,
            )  # fmt: skip
        emit(_line(image))

    @app.command(name="ls")
    def list_command() -> None:
        """List the images: name, kind, room on this host, and age."""
        run_list()

    @app.command(name="rm")
    def remove_command(
        names: Annotated[list[str], typer.Argument(help="the images' names")],
    ) -> int:
        """Remove images."""
        return run_rm(names)

    return app


def run_build(name: str, runner: Runner) -> None:
    """Build the image `name` and print its line.  Raises RingletError."""
    base, _, variant = name.partition(":")
    if base != NAME:
        raise ConfigError(
            f"{name!r} cannot be built, only debian; `ringlet image import` and `pull` make others"
        )
    with Progress("building") as progress:
        image = build_debian(Images(), runner, progress.step, variant=variant)
    emit(_line(image))


def run_list() -> None:
    """Print a line for each image.  Raises RingletError."""
    images = Images().list()
    if not images:
        emit("no images; `ringlet image build` makes Debian's")
    width = max((len(image.name) for image in images), default=0)
    for image in images:
        emit(_line(image, width))


def run_rm(names: Sequence[str]) -> int:
    """Remove images, and return the exit status; go on after an error, which is told."""
    images = Images()
    status = 0
    for name in names:
        try:
            images.remove(name, lambda: complain("waiting for another process that makes an image"))
        except RingletError as error:
            complain(str(error))
            status = error.exit_status
    return status


def age(seconds: float) -> str:
    """Return how long `seconds` are, in the largest unit that fits, such as "3 days"."""
    for size, unit in _UNITS:
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "0 seconds"


def _line(image: Image, width: int = 0) -> str:
    size = format_size(image.size)
    old = age(max(0, time.time() - image.created))
    return f"{image.name:<{width}}  {image.kind:<6}  {size:>8}  {old}"
