"""A small cache whose callers wait for each other instead of doing the same work twice."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import wraps
from typing import TypeVar

Value = TypeVar("Value")


def once(
    kept: int, seconds: float = math.inf
) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Decorate a function of hashable arguments: its last `kept` results are remembered.

    A result older than `seconds` is forgotten as soon as anybody calls the function again.

    Unlike `functools.lru_cache`, a call made while another thread works on the same arguments
    waits for that result: thirty people who open one film at once have it made once. A call that
    raises is forgotten, so that the next one tries again.
    """

    def decorate(function: Callable[..., Value]) -> Callable[..., Value]:
        results: OrderedDict[Hashable, tuple[Future[Value], float]] = OrderedDict()
        lock = threading.Lock()

        @wraps(function)
        def remembered(*arguments: Hashable) -> Value:
            now = time.monotonic()
            with lock:
                for old in [key for key, (_, born) in results.items() if now - born > seconds]:
                    del results[old]
                mine = arguments not in results
                result, _ = results.setdefault(arguments, (Future(), now))
                results.move_to_end(arguments)
                while len(results) > kept:
                    results.popitem(last=False)
            if mine:
                try:
                    result.set_result(function(*arguments))
                except BaseException as error:
                    with lock:
                        results.pop(arguments, None)
                    result.set_exception(error)
            return result.result()

        return remembered

    return decorate
