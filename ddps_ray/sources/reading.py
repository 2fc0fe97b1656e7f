"""From a manifest row to an image, many at a time: a store answers slowly, so threads wait for it together."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from ddps_ray import imaging, storage
from ddps_ray.errors import BadImage

T = TypeVar("T")
_THREADS = 8


def read_image(uri: str) -> Image.Image:
    """Reads and decodes one image: upright, RGB, its original size.

    Raises:
        BadImage: It is not there, may not be read, or cannot be decoded.
        OSError: The store does not answer as it should: no fault of the image, and worth another try.
    """
    try:
        data = storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise BadImage(f"cannot be read: {type(error).__name__}") from error
    return imaging.decode(data)


def attempt(uris: Iterable[str], work: Callable[[Image.Image], T]) -> list[T | BadImage]:
    """Reads images and does something with each, in threads.

    Returns:
        For each URI, in order, what `work` returned, or why the image cannot be used.
    """

    def one(uri: str) -> T | BadImage:
        try:
            return work(read_image(uri))
        except BadImage as reason:
            return reason

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, uris))
