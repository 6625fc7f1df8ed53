"""glibc's allocator: it keeps freed memory or gives it back; and Python's collector, which rests during imports."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_LARGE = 2**31 - 1


def keep_memory() -> bool:
    """Keep freed memory in the process instead of returning it to the system; True if that was possible.

    By default glibc gets every tensor above its threshold (at most 32 MiB) as fresh pages by mmap and gives them back
    at once, so each step pays for page faults and zeroing. Same effect as large MALLOC_TRIM_THRESHOLD_ and
    MALLOC_TOP_PAD_ with MALLOC_MMAP_MAX_=0, but from inside the process: call it before the first tensor.
    """
    libc = _glibc()
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, 64 * 2**20))
    return libc is not None and all(libc.mallopt(name, value) == 1 for name, value in settings)


def return_memory() -> None:
    """Give freed memory back to the system now, also pieces between blocks in use, which glibc keeps by default.

    For a job that does different work on different threads in turns, so that its peak is that of one turn.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Inside, Python's cyclic collector does nothing: around imports of large libraries.

    Their objects stay as long as the process, and the collector would look at them again and again, 0.3 seconds each
    time. So what is there at the end it never looks at again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
