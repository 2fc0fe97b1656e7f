"""Work in chunks that fit the GPU's memory: a chunk that does not is halved, and so are those that follow."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor


class MicroBatch:
    """How many inputs a network gets in one call.

    Attributes:
        most: Inputs in one call; becomes smaller when the memory does not suffice, and stays so.
    """

    def __init__(self, network: str, most: int) -> None:
        """Begins with `most` inputs in one call of `network`, a name for the log."""
        self._network, self.most = network, most

    def over(self, count: int, work: Callable[[slice], Tensor], inputs: int = 1) -> Tensor:
        """Does work on a range, chunk by chunk, and puts the results together.

        Args:
            count: Length of the range.
            work: Takes a part of the range, returns as many rows.
            inputs: Inputs of the network that each place of the range stands for.

        Raises:
            torch.OutOfMemoryError: The memory does not suffice for a single place.
        """
        parts: list[Tensor] = []
        done, fits = 0, True
        while done < count:
            size = min(count - done, max(1, self.most // inputs))
            part = _try(work, slice(done, done + size), last=size == 1)
            if part is None:
                self.most, fits = size // 2 * inputs, False
                torch.cuda.empty_cache()
                continue
            if not fits:
                log = logging.getLogger(__name__)
                log.warning("out of GPU memory: from now on %d inputs in one call of the %s", self.most, self._network)
            parts.append(part)
            done, fits = done + size, True
        return torch.cat(parts)


def _try(work: Callable[[slice], Tensor], chunk: slice, last: bool) -> Tensor | None:
    """Does work on a chunk; None if the memory does not suffice and the chunk can be halved."""
    try:
        return work(chunk)
    except torch.OutOfMemoryError:
        if last:
            raise
        return None
