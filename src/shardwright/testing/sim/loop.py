"""A deterministic event loop in virtual time, whose callbacks belong to simulated processes.

Owns time. A process that was killed runs nothing more, whatever it was about to do; what a frozen one was to run is kept
until it is thawed. Knows nothing of clusters.
"""

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any

PROCESS: ContextVar["SimProcess | None"] = ContextVar("simulated process", default=None)


STEPS_MAX = 3_000
"""Steps of the product's own code in one second of virtual time: more of them are somebody who turns in circles, without end
or until something else ends it. Six hundred seeds needed 777 at most."""
MODEL_STEPS_MAX = 40 * STEPS_MAX
"""Steps of what is modelled. Clients that wait for a server are many, and each tries again ten times a second; only a model
that goes round without time passing needs more."""


class SimProcess:
    """Something that can be killed and frozen on its own."""

    __slots__ = ("is_alive", "is_frozen", "name", "on_death", "on_thaw", "parked", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_frozen = False
        self.parked: list[Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.on_death: list[Callable[[], None]] = []
        self.on_thaw: list[Callable[[], None]] = []

    @property
    def runs(self) -> bool:
        """It lives and is not frozen."""
        return self.is_alive and not self.is_frozen

    def kill(self) -> None:
        """End it at once, also while it is frozen."""
        if self.is_alive:
            self.is_alive = False
            for call in self.on_death:
                call()

    def freeze(self) -> None:
        """Stop it (SIGSTOP)."""
        self.is_frozen = self.is_alive

    def thaw(self, loop: "SimLoop") -> None:
        """Let it go on (SIGCONT)."""
        if self.is_alive and self.is_frozen:
            self.is_frozen = False
            parked, self.parked = self.parked, []
            loop.ready.extend(parked)
            for call in self.on_thaw:
                call()


class Handle:
    """A scheduled callback."""

    __slots__ = ("args", "call", "context", "process")

    def __init__(
        self, call: Callable[..., object], args: tuple[Any, ...], context: Context | None, process: SimProcess | None
    ) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args
        self.context = context
        self.process = process

    def cancel(self) -> None:
        """Never run it."""
        self.call = None
        self.args = ()

    def cancelled(self) -> bool:
        """As asyncio asks."""
        return self.call is None


class SimLoop(asyncio.AbstractEventLoop):
    """See the module's text."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[Handle] = deque()
        self.steps = 0
        self.failures: list[str] = []
        self.circle = ""
        """Who asked for more steps than a second has; empty while nobody did."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.stopped: list[SimProcess] = []
        self.is_over = False
        """Teardown: whatever is left runs to its end, in all processes."""
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = 0

    # -- what asyncio asks of a loop ---------------------------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        if len(self.tasks) > 2000:
            self.tasks = [t for t in self.tasks if not t.done()]
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        if context is None:
            context = copy_context()
        handle = Handle(callback, args, context, context.get(PROCESS))
        self.ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        if context is None:
            context = copy_context()
        handle = Handle(callback, args, context, context.get(PROCESS))
        self._order += 1
        heappush(self._timers, (when, self._order, handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_over:
            self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    # -- the world's own -----------------------------------------------------------------------------------------------

    def at(self, delay: float, call: Callable[..., object], *args: Any, process: SimProcess | None = None) -> Handle:
        """Call after ``delay`` seconds, on behalf of a process or of the world itself (None)."""
        handle = Handle(call, args, None, process)
        self._order += 1
        heappush(self._timers, (self.now + delay, self._order, handle))
        return handle

    def start(self, process: SimProcess, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Run a coroutine as the main task of a process."""
        context = copy_context()
        context.run(PROCESS.set, process)
        task = self.create_task(work, name=name, context=context)
        task.add_done_callback(self._main_ended)
        return task

    def _main_ended(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.is_over:
            self.failures.append(f"{task.get_name()} failed: {error!r}")

    def run_until(self, until: float) -> None:
        """Run everything that is due until that time, and let the clock show it."""
        previous = events._get_running_loop()
        events._set_running_loop(self)
        ready, timers = self.ready, self._timers
        seconds = max(1.0, until - self.now)
        last = self.steps + MODEL_STEPS_MAX * seconds
        own, own_last = 0, STEPS_MAX * seconds
        try:
            while True:
                if ready:
                    handle = ready.popleft()
                elif timers and timers[0][0] <= until:
                    when, _, handle = heappop(timers)
                    if handle.call is not None and when > self.now:
                        self.now = when
                else:
                    break
                # As ``_run``; this is where half a million steps of a few seeds go through.
                process = handle.process
                if handle.call is None:
                    continue
                if process is not None and (process.is_frozen or not process.is_alive):
                    self._run(handle)
                    continue
                self.steps += 1
                if handle.context is None:
                    handle.call(*handle.args)
                else:
                    own += 1
                    handle.context.run(handle.call, *handle.args)
                if own >= own_last or self.steps >= last:
                    who = "nobody's" if process is None else process.name
                    self.circle = f"{own} steps of the product within {seconds:.1f} s until {until:.1f}, the last one {who}"
                    break
            self.now = max(self.now, until)
        finally:
            events._set_running_loop(previous)

    def _run(self, handle: Handle) -> None:
        call = handle.call
        if call is None:
            return
        process = handle.process
        if process is not None and (process.is_frozen or not process.is_alive) and not self.is_over:
            # Of a dead one too: what waits for this step can be cancelled in the end only if it is kept.
            if not process.parked:
                self.stopped.append(process)
            process.parked.append(handle)
            return
        self.steps += 1
        context = handle.context
        if context is None:
            call(*handle.args)
        else:
            context.run(call, *handle.args)

    def end(self) -> None:
        """Cancel what is left, so that nothing of this loop outlives it."""
        self.is_over = True
        for process in self.stopped:
            self.ready.extend(h for h in process.parked if h.context is not None)
            process.parked.clear()
        for _ in range(20):
            left = [t for t in self.tasks if not t.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self._drain()
        self.tasks.clear()
        self._timers.clear()

    def _drain(self) -> None:
        previous = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for _ in range(20_000):
                if not self.ready:
                    break
                self._run(self.ready.popleft())
        finally:
            events._set_running_loop(previous)


def result_of(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it awaits something")
