"""From a manifest row to an image, many at a time: a store answers slowly, so threads wait for it together."""

import io
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image
from pyarrow import fs

from ddps_ray import imaging, storage
from ddps_ray.errors import BadImage
from ddps_ray.sources import locators, parquet
from ddps_ray.sources.locators import Locator

T = TypeVar("T")
_THREADS = 8


def read_image(uri: str) -> Image.Image:
    """Reads and decodes one image: upright, RGB, its original size.

    Args:
        uri: Where it is: a file, or a part of one; see `locators`.

    Raises:
        BadImage: It is not there, may not be read, or cannot be decoded.
        OSError: The store does not answer as it should: no fault of the image, and worth another try.
    """
    locator = locators.parse(uri)
    data = _read(locator)
    return _planes(data) if locator.kind == "planes" else imaging.decode(data)


def read_encoded(uri: str) -> bytes:
    """Reads the file of one image as it is, undecoded; where there is none, it is written as PNG.

    Raises:
        BadImage: It is not there, or may not be read.
        OSError: As in `read_image`.
    """
    locator = locators.parse(uri)
    data = _read(locator)
    if locator.kind != "planes":
        return data
    encoded = io.BytesIO()
    _planes(data).save(encoded, "PNG")
    return encoded.getvalue()


def attempt(uris: Iterable[str], work: Callable[[Image.Image], T]) -> list[T | BadImage]:
    """Reads images and does something with each, in threads.

    Returns:
        For each URI, in order, what `work` returned, or why the image cannot be used.
    """
    return _each(uris, lambda uri: work(read_image(uri)))


def attempt_encoded(uris: Iterable[str]) -> list[bytes | BadImage]:
    """Reads the files of images in threads, for a copy of them: what is no image by its first bytes is not copied.

    A link that is called `x.jpg` may lead to a file that is nobody else's business.

    Returns:
        For each URI, in order, the bytes, or why there are none.
    """
    return _each(uris, _read_for_a_copy)


def _read_for_a_copy(uri: str) -> bytes:
    data = read_encoded(uri)
    if not data:
        raise BadImage("empty file")
    Image.init()
    if not any(accepts and accepts(data[:16]) for _, accepts in map(Image.OPEN.__getitem__, imaging.FORMATS)):
        raise BadImage("not an image")
    return data


def _each(uris: Iterable[str], work: Callable[[str], T]) -> list[T | BadImage]:
    def one(uri: str) -> T | BadImage:
        try:
            return work(uri)
        except BadImage as reason:
            return BadImage(str(reason))  # without the traceback, whose frames hold the image

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, uris))


def _read(locator: Locator) -> bytes:
    try:
        if locator.kind == "row":
            return parquet.read_row(locator.uri, locator.start, locator.column)
        if locator.kind is None:
            return storage.read_bytes(locator.uri)
        return _read_range(locator)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise BadImage(f"cannot be read: {type(error).__name__}") from error
    except OSError as error:
        if _is_folder(locator.uri):  # for which Arrow has no other error than for a store that fails
            raise BadImage("cannot be read: IsADirectoryError") from error
        raise


def _read_range(locator: Locator) -> bytes:
    filesystem, path = storage.open_uri(locator.uri)
    with filesystem.open_input_file(path) as file:
        size = file.size()
        if locator.start + locator.length > size:
            end = locator.start + locator.length
            raise BadImage(f"cannot be read: bytes up to {end} are wanted, the file ends at {size}")
        file.seek(locator.start)
        return bytes(file.read(locator.length))


def _is_folder(uri: str) -> bool:
    filesystem, path = storage.open_uri(uri)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def _planes(data: bytes) -> Image.Image:
    side = math.isqrt(len(data) // 3)
    if not data or 3 * side * side != len(data):
        raise BadImage(f"{len(data)} bytes are not three square planes")
    return Image.fromarray(np.frombuffer(data, np.uint8).reshape(3, side, side).transpose(1, 2, 0).copy())
