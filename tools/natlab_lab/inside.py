"""Work of this process inside a network namespace: threads that moved there, whose sockets stay there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from natlab_lab.leftovers import NETNS

_CLONE_NEWNET = 0x40000000
_THREADS = 16
"""Requests at once of one machine; the scenarios have fewer."""

P = ParamSpec("P")
Result = TypeVar("Result")


def enter(namespace: str) -> None:
    """Moves the calling thread into a namespace, for good.

    Raises:
        OSError: There is none of this name, or it may not.
    """
    handle = os.open(NETNS / namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)


class Inside:
    """Calls functions in threads of a namespace."""

    def __init__(self, namespace: str) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, namespace, initializer=enter, initargs=(namespace,))

    def start(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        """Starts a call."""
        return self._pool.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Returns what a call returns."""
        return self.start(function, *args, **kwargs).result()

    def close(self) -> None:
        """Ends the threads, those that work as soon as they have done so: they keep the namespace alive."""
        self._pool.shutdown(wait=False, cancel_futures=True)
