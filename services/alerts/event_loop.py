"""An event loop in a thread of its own: rstream is asynchronous, services are not. Its errors come out in our words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from rstream import exceptions

from backbone.errors import AccessRefused, TransientError

ANSWER_S = 60.0
REFUSED = (
    exceptions.AccessRefused,
    exceptions.AuthenticationFailure,
    exceptions.SASLAuthenticationFailureLoopback,  # a virtual host that is not there may be on its way up
)
T = TypeVar("T")


class EventLoop:
    """Runs coroutines for other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streams", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = ANSWER_S) -> T:
        """The result; errors of the broker in our words."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except REFUSED as error:
            raise AccessRefused(f"the broker refuses: {type(error).__name__} {error}".strip()) from error
        except (FutureTimeout, TimeoutError) as error:
            future.cancel()
            raise TransientError(f"the broker did not answer within {timeout_s:.0f} s") from error
        except (exceptions.ServerError, exceptions.ClientError, OSError, EOFError) as error:
            raise TransientError(f"the broker did not answer: {type(error).__name__} {error}".strip()) from error

    def close(self) -> None:
        """End the thread, and whatever still runs in it."""
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
