"""glibc's allocator for jobs that allocate and free the same large tensors at every step."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_LARGE = 2**31 - 1


def keep_memory() -> bool:
    """Keep freed memory in the process instead of returning it to the system; True where that was possible.

    By default glibc gets every tensor above its threshold (at most 32 MiB) as fresh pages by mmap and gives them back
    at once, so each step pays for page faults and zeroing. Same effect as large MALLOC_TRIM_THRESHOLD_ and
    MALLOC_TOP_PAD_ with MALLOC_MMAP_MAX_=0, but from inside the process: call it before the first tensor.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGE), (_TOP_PAD, 64 * 2**20))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
