"""Many films at once, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def bounded_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Like ``map`` on ``workers`` threads: results in order, however many items there are.

    Items are taken as results leave, so that at most ``2 * workers`` items are in memory. What
    ``function`` raises comes out at its item's turn. Stopping early drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fracture")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
