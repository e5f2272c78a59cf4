"""What the C library does with memory that a command has freed."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed(block: int, total: int) -> None:
    """Have it kept for the rest of this process: blocks of up to `block` bytes, `total` bytes in all (glibc's mallopt(3);
    elsewhere nothing happens).

    The next step of a training, or the next run of a network, asks for what the one before has freed. By default much of that
    goes back to the system in between, which clears every page again: 5 to 14 % of a step of the small Transformer and the
    small ViT on a CPU, a tenth to a fifth of a small network's run. Memory stays near its peak.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such library, no such function, Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, block)
        mallopt(M_TRIM_THRESHOLD, total)
