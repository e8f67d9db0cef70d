"""Gives memory back that is not used any more, which Linux and its C library would keep.

glibc gives every thread its own heap ("arena") and returns a heap's pages only from its end, so a
server whose readings run on a dozen threads holds a dozen readings' worth. With two heaps and a
look through them after each answer it stays about where it was after the first one; the price is
that the next reading fetches its pages anew. Where there is no glibc nothing is done.

Python's own collector looks through all objects again and again while modules are imported: it is
off meanwhile, and `settle` spares it what stays for good.

Importing torch runs through much of its libraries' code once and never again, most of it CUDA's;
`forget_code` lets the system have those pages.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import re
import sys
from functools import cache
from pathlib import Path

M_ARENA_MAX = -8  # malloc.h
ARENAS = 2  # as many as readings at a time on a small machine
MADV_DONTNEED = 4  # mman.h
# In /proc/self/smaps: code mapped from a file that is still there, none of its pages changed.
CODE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+ +/.*(?<!\(deleted\))\n"
    r"(?:\w+:.*\n)*?Anonymous: +0 kB$",
    re.MULTILINE,
)
# Gradio's streams of answers, to the page and gradio_client and to a plain HTTP client; each ends
# when no more are to come.
ANSWERS = re.compile(r"/queue/data$|/call/(v2/)?\w+/\w+$")


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def few_heaps() -> None:
    """Let all threads that are started from now on share `ARENAS` heaps."""
    if library := _glibc():
        library.mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return free pages of all heaps to the system; other threads go on meanwhile."""
    if library := _glibc():
        library.malloc_trim(0)


def forget_code() -> None:
    """Let go of the libraries' code; what is still run comes back from their files by itself.

    Only mappings that are executable and unchanged: their pages are those of the files.
    """
    library, mappings = _glibc(), Path("/proc/self/smaps")
    if library and mappings.exists():
        for found in CODE.finditer(mappings.read_text(errors="replace")):
            start, end = (int(address, 16) for address in found.groups())
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def settle() -> None:
    """Turn Python's collector on; what is there now, it need not look through again.

    For the end of the imports, before the first visitor: nothing of a person may stay for good. The
    few lost objects among the imported ones are not worth the time that finding them would take.
    """
    gc.freeze()
    gc.enable()


class GiveBack:
    """ASGI layer: gives memory back when the answers to a page or a program have been sent."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http" and ANSWERS.search(scope["path"]):
                await asyncio.to_thread(give_back)
