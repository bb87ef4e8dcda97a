"""A deterministic event loop in virtual time, whose callbacks belong to simulated processes.

Owns time. A killed process runs nothing more, whatever was scheduled; callbacks of a frozen process are kept until it is
thawed. Does not know clusters.
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
"""Limit of the product's steps in one second of virtual time. More steps mean that code runs in circles. The maximum in six
hundred seeds was 777."""
MODEL_STEPS_MAX = 40 * STEPS_MAX
"""Limit of the model's steps. Many clients that wait for a server retry ten times a second; only a model that runs in
circles without passing time needs more."""


class SimProcess:
    """A process that can be killed and frozen separately."""

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
        """Whether it lives and is not frozen."""
        return self.is_alive and not self.is_frozen

    def kill(self) -> None:
        """End it at once, even if it is frozen."""
        if self.is_alive:
            self.is_alive = False
            for call in self.on_death:
                call()

    def freeze(self) -> None:
        """Stop it (SIGSTOP)."""
        self.is_frozen = self.is_alive

    def thaw(self, loop: "SimLoop") -> None:
        """Resume it (SIGCONT)."""
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
        """Do not run it."""
        self.call = None
        self.args = ()

    def cancelled(self) -> bool:
        """Required by asyncio."""
        return self.call is None


class SimLoop(asyncio.AbstractEventLoop):
    """See the module's docstring."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[Handle] = deque()
        self.steps = 0
        self.failures: list[str] = []
        self.circle = ""
        """The callback that exceeded the limit of steps; empty: none."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.stopped: list[SimProcess] = []
        self.is_over = False
        """Teardown: the remaining callbacks of all processes run to the end."""
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = 0

    # -- the interface for asyncio -----------------------------------------------------------------------------------

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

    # -- for the simulation --------------------------------------------------------------------------------------------

    def at(self, delay: float, call: Callable[..., object], *args: Any, process: SimProcess | None = None) -> Handle:
        """Call after ``delay`` seconds, on behalf of a process or of the simulated world (None)."""
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
        """Run everything that is due until that time, and advance the clock to it."""
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
                # Like ``_run``, but inlined: half a million steps of a few seeds run here.
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
                    who = "the world's" if process is None else process.name
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
            # Kept for a dead process too, because a waiter of this step can only be cancelled at the end if the step is
            # kept.
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
        """Cancel the remaining tasks, so that nothing outlives this loop."""
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
    """Run a coroutine that awaits nothing, and return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it awaits something")
