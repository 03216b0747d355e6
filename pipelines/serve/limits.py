"""How much is done at once, and for whom: a line with an end, and so many queries a second for each client."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
CLIENTS = 10_000  # whose rate is known; the one that was longest quiet is forgotten first
BURST = 2  # seconds of queries that may come at once


class BusyError(Exception):
    """More is asked for than is taken on: HTTP's status, what to say, seconds after which to ask again."""

    def __init__(self, status: int, message: str, wait: float) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait


class Line:
    """Work in threads, `running` at once and `waiting` in line; who comes when the line is full is told so at once."""

    def __init__(self, running: int, waiting: int) -> None:
        self.pool, self.places, self.taken = ThreadPoolExecutor(running), running + waiting, 0

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """What `work` returns. Raises BusyError."""
        if self.taken >= self.places:
            raise BusyError(503, f"overloaded: {self.taken} are in line already; ask again in a second", 1)
        self.taken += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)
        finally:
            self.taken -= 1


class Rate:
    """At most so many queries a second for each client, BURST seconds of them at once; 0: any number."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.clock = per_second, clock
        self._free_at: OrderedDict[str, float] = OrderedDict()  # client -> when all that it asked for would be paid

    def take(self, client: str) -> None:
        """Count a query of a client. Raises BusyError for one too many, which does not count."""
        if not self.per_second:
            return
        now = self.clock()
        free_at = max(self._free_at.pop(client, now), now) + 1 / self.per_second
        late = free_at - now - max(BURST, 1 / self.per_second)
        self._free_at[client] = free_at if late <= 1e-9 else free_at - 1 / self.per_second
        while len(self._free_at) > CLIENTS:
            self._free_at.popitem(last=False)
        if late > 1e-9:
            raise BusyError(429, f"more than {self.per_second:g} queries a second; ask again in {late:.1f} s", late)
