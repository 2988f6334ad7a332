"""`ringlet cache ls` and `ringlet cache prune`: what is kept for later runs."""

import time

from ringlet.cli.streams import complain, emit
from ringlet.config import format_size
from ringlet.images import usage
from ringlet.images.store import Store, default_root, explain
from ringlet.images.usage import Item


def list_cache() -> int:
    """Print a line for each thing in the cache, and the sum."""
    store = Store(default_root())
    found = usage.items(store, busy=store.busy())
    _print(found)
    emit(f"{format_size(sum(item.size for item in found))} in {store.root}")
    return 0


def prune_cache(*, everything: bool, dry_run: bool) -> int:
    """Remove what no run needs, or all, and print what it was.  Raises ImageError.

    An image that is imported, or that a machine uses, stays in any case.
    """
    store = Store(default_root())
    if not store.root.exists():
        emit(f"nothing to remove: there is no {store.root}")
        return 0
    with store.locked(lambda: complain("waiting for another process that changes the cache")):
        wanted = [item for item in usage.items(store) if everything or item.unneeded]
        unwanted = [item for item in wanted if not item.kept]
        _print(wanted)
        if dry_run:
            emit(f"would free {format_size(sum(item.size for item in unwanted))}")
            return 0
        try:
            freed = usage.remove(store, unwanted)
        except OSError as error:
            raise explain(error, store.root) from error
    emit(f"freed {format_size(freed)}")
    return 0


def _print(found: list[Item]) -> None:
    width = max((len(item.name) for item in found), default=0)
    for item in found:
        day = time.strftime("%Y-%m-%d", time.localtime(item.used))
        note = item.kept or item.unneeded
        why = f"  {note}" if note else ""
        emit(f"{item.name:<{width}}  {format_size(item.size):>10}  {day}{why}")
