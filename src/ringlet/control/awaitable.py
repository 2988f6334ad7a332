"""`ringlet.AsyncMachine`: the methods of `ringlet.Machine` for coroutines, by one mechanism."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ringlet.control.console import Console
from ringlet.control.machine import Machine

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


class _Around:
    """An object whose methods wait in threads; `wrapped` is the object whose methods block."""

    wrapped: Any

    def __repr__(self) -> str:
        return repr(self.wrapped).replace("<ringlet.", "<ringlet.Async", 1)


def _awaitable(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the method of an `_Around` that does in a thread what `method` does."""

    @wraps(method)
    async def call(self: Any, /, *arguments: P.args, **options: P.kwargs) -> T:
        result = await in_thread(lambda: method(self.wrapped, *arguments, **options))
        return self if result is self.wrapped else result

    return call


async def in_thread(function: Callable[[], T]) -> T:
    """Return what `function` returns in a thread of its own.

    A pool of threads, as asyncio's, would be full once its threads wait for as many guests.  If the
    coroutine is cancelled, the thread goes on until the function returns.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - the coroutine gets it
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop was closed, so nobody waits
            return

    threading.Thread(target=work, name="await", daemon=True).start()
    return await future


class AsyncConsole(_Around):
    """`ringlet.Console` for coroutines."""

    def __init__(self, console: Console) -> None:
        self.wrapped = console

    send = _awaitable(Console.send)
    expect = _awaitable(Console.expect)

    def output(self) -> str:
        """Return the output since the last `expect`, without consuming it."""
        return str(self.wrapped.output())


class Awaitables(_Around):
    """Any object, such as a machine's files, whose methods become awaitable."""

    def __init__(self, wrapped: object) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.wrapped, name)
        if not callable(method):
            return method

        @wraps(method)
        async def call(*arguments: Any, **options: Any) -> Any:
            return await in_thread(lambda: method(*arguments, **options))

        return call


class AsyncMachine(_Around):
    """`ringlet.Machine` for coroutines: the same parameters, and the same methods, awaitable.

    `async with` frees everything at the end.  `machine` is the machine itself.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.machine = self.wrapped = Machine(*arguments, **options)
        self.console = AsyncConsole(self.machine.console)
        self.memory = Awaitables(self.machine.memory)
        self.cpu = Awaitables(self.machine.cpu)

    start = _awaitable(Machine.start)
    ready = _awaitable(Machine.ready)
    wait = _awaitable(Machine.wait)
    stop = _awaitable(Machine.stop)
    kill = _awaitable(Machine.kill)
    pause = _awaitable(Machine.pause)
    resume = _awaitable(Machine.resume)
    close = _awaitable(Machine.close)
    run = _awaitable(Machine.run)
    popen = _awaitable(Machine.popen)

    @property
    def files(self) -> Awaitables:
        """The guest's files, with awaitable methods."""
        return Awaitables(self.machine.files)

    def on(self, event: str, handler: Callable[..., object]) -> None:
        """Call `handler`, a function, at an event; as `Machine.on`, in a thread of the machine."""
        self.machine.on(event, handler)

    def last_output(self) -> str:
        """Return the last lines that the guest printed, as text."""
        return self.machine.last_output()

    def counters(self) -> dict[str, int]:
        """Return the machine's counters."""
        return self.machine.counters()

    @property
    def state(self) -> str:
        """Return "new", "running", "paused" or "ended"."""
        return self.machine.state

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
