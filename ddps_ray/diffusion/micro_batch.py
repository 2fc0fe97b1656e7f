"""Work in chunks that fit the GPU's memory: a chunk that does not is halved, and so are those that follow."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ddps_ray.errors import UserError, first_line

_NO_ROOM = "ALLOC_FAILED"
"""In what cuBLAS and cuDNN say when they get no memory, as a plain RuntimeError."""

_FAILURES = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS")


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
            UserError: The memory does not suffice for a single place.
        """
        parts: list[Tensor] = []
        done, fits = 0, True
        while done < count:
            size = min(count - done, max(1, self.most // inputs))
            part = self._try(work, slice(done, done + size), last=size == 1)
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

    def _try(self, work: Callable[[slice], Tensor], chunk: slice, last: bool) -> Tensor | None:
        """Does work on a chunk; None if the memory does not suffice and the chunk can be halved."""
        try:
            return work(chunk)
        except RuntimeError as error:
            if not (isinstance(error, torch.OutOfMemoryError) or _NO_ROOM in str(error)):
                raise
            if last:
                raise UserError(
                    f"score.micro_batch: not even one latent fits the GPU's memory in a call of the {self._network}, "
                    f"use a smaller score.size or another GPU: {first_line(error)}"
                ) from error
            return None


def gpu_failed(error: RuntimeError) -> bool:
    """Says whether an error is one of the GPU, after which nothing works any more in the process that uses it."""
    return isinstance(error, torch.AcceleratorError) or any(said in str(error) for said in _FAILURES)
