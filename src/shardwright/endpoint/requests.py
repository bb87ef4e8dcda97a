"""Serves many requests at once over one channel: a long request delays no other one.

Each request carries a number, its answer the same number. Used by the processes that other machines reach.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shardwright.endpoint.channel import Channel, Message
from shardwright.tasks import spawn

IN_PROGRESS_MAX = 1024
"""Of one caller. A leader asks at most a few things of each endpoint at a time; more would only use memory."""
SEND_TIMEOUT_S = 5.0
"""A caller that reads nothing for this long has ended or is frozen; its own calls have timed out."""

_log = structlog.get_logger(__name__)


async def serve_requests(channel: Channel, answer: Callable[[Message], Awaitable[Message]], *, name: str) -> None:
    """Answer one caller until it disconnects. What has begun by then is finished, but not answered. The requests begin in
    the order in which they came. A cancellation ends them."""
    working: set[asyncio.Task[None]] = set()

    async def work(number: object, message: Message) -> None:
        try:
            found = await answer(message)
        except OSError as error:
            found = {"error": str(error)}
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await channel.send(found | {"id": number})
        except (OSError, TimeoutError):
            channel.close()

    try:
        while (received := await channel.receive()) is not None:
            message, _ = received
            number = message.pop("id", None)
            if len(working) >= IN_PROGRESS_MAX:
                await channel.send({"id": number, "error": "too many requests at once"})
                continue
            task = spawn(f"{name}: {message.get('op')}", work(number, message))
            working.add(task)
            task.add_done_callback(working.discard)
    except (OSError, ValueError) as error:
        _log.info("a caller has disconnected", what=name, reason=str(error))
    except asyncio.CancelledError:
        for task in working:
            task.cancel()
        raise
    finally:
        channel.close()
        if working:
            await asyncio.gather(*working, return_exceptions=True)
