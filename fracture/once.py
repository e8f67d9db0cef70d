"""A small cache whose callers wait for each other instead of doing the same work twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import update_wrapper
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """A function of hashable arguments whose last results are remembered; made by `once`.

    Unlike `functools.lru_cache`, a call made while another thread works on the same arguments
    waits for that result: thirty people who open one film at once have it made once. A call that
    raises is forgotten, so that the next one tries again.
    """

    def __init__(self, function: Callable[..., Value], kept: int) -> None:
        self._function = function
        self._kept = kept
        self._results: OrderedDict[tuple[Hashable, ...], Future[Value]] = OrderedDict()
        self._lock = threading.Lock()
        update_wrapper(self, function)

    def __call__(self, *arguments: Hashable) -> Value:
        with self._lock:
            mine = arguments not in self._results
            result = self._results.setdefault(arguments, Future())
            self._results.move_to_end(arguments)
            while len(self._results) > self._kept:
                self._results.popitem(last=False)
        if mine:
            try:
                result.set_result(self._function(*arguments))
            except BaseException as error:
                with self._lock:
                    self._results.pop(arguments, None)
                result.set_exception(error)
        return result.result()

    def forget(self, unwanted: Callable[..., bool]) -> None:
        """Forget the results of the arguments for which `unwanted(*arguments)` is true."""
        with self._lock:
            for arguments in [key for key in self._results if unwanted(*key)]:
                del self._results[arguments]


def once(kept: int) -> Callable[[Callable[..., Value]], Once[Value]]:
    """Decorate a function of hashable arguments: its last `kept` results are remembered."""
    return lambda function: Once(function, kept)
