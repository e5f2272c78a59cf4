"""How many threads torch uses: one number for the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """So many threads within; torch's own number again afterwards. None changes nothing."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
