"""A foreign set of encoded images: its files are read once for what they are, and decoded once a node, as ours are."""

import hashlib
import io
from dataclasses import dataclass, replace

import pyarrow as pa
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as VF

from ddps_ray import imaging
from ddps_ray.errors import BadImage, UserError
from ddps_ray.sources import reading
from ddps_ray.students.data import Pictures
from ddps_ray.students.foreign import content
from ddps_ray.students.foreign.content import Facts, Foreign


@dataclass(frozen=True)
class Square:
    """Brings an image's shorter edge to `size` pixels, bicubically, and cuts its middle, `size`×`size`."""

    size: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the middle."""
        resized = VF.resize(image, self.size, InterpolationMode.BICUBIC)
        square: Image.Image = VF.center_crop(resized, [self.size, self.size])
        return square


@dataclass(frozen=True)
class Encoded:
    """A set that is listed.

    Attributes:
        ids: What each image is called.
        class_ids_N: The class of each image.
        class_ids: Classes of the set, sorted.
        uris: Where each image is, as `sources.locators` has it.
        files: The files that have the images; none where each image is a file.
        given: The set's classes in the order of its numbers, where the user has given them and numbers count.
        notes: What the user should know, a line each.
    """

    ids: tuple[str, ...]
    class_ids_N: tuple[str, ...]
    class_ids: tuple[str, ...]
    uris: tuple[str, ...]
    files: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def facts(self, record: str | None) -> Facts:
        """As `Opened` has it; of images only the headers are looked at."""
        about = (self.ids, self.class_ids_N, self.class_ids, self.given)
        found = content.recorded(record, self.uris, about, self._measured)
        return replace(found, notes=(*self.notes, *found.notes))

    def load(self, size: int, record: str | None) -> Foreign:
        """As `Opened` has it.

        Raises:
            UserError: An image cannot be decoded, or there is no room for them.
        """
        rows = pa.table({"image_id": self.ids, "uri": self.uris, "class_id": self.class_ids_N})
        square = Square(size)
        pictures = Pictures(rows, self.class_ids, square, size, transform=repr(square))
        for index, reason in pictures.bad.items():
            raise UserError(f"{self.uris[index]}: {reason}: a distilled set must be whole")
        facts = self.facts(record)  # after the images, so that it is another if they have changed meanwhile
        return Foreign(pictures, None, self.class_ids, facts.size, facts.digest)

    def _measured(self) -> Facts:
        if self.files:
            found = list(content.each(self.files, content.of_file))
            sizes = list(content.each(self.uris, lambda uri: _header(uri, _read(uri))))
            digest = content.digest_of([*(digest for _, digest in found), *self.given])
            return content.facts(self.class_ids_N, self.class_ids, sizes, sum(size for size, _ in found), digest)
        lengths, digests, seen = zip(*content.each(self.uris, _looked_at), strict=True)
        digest = content.digest_of(sorted(f"{id_} {digest}" for id_, digest in zip(self.ids, digests, strict=True)))
        return content.facts(self.class_ids_N, self.class_ids, seen, sum(lengths), digest)


def _looked_at(uri: str) -> tuple[int, str, tuple[int, int]]:
    """Bytes of an image file, a digest of them, and width and height."""
    data = _read(uri)
    return len(data), hashlib.sha256(data).hexdigest(), _header(uri, data)


def _read(uri: str) -> bytes:
    try:
        return reading.read_encoded(uri)
    except BadImage as error:
        raise UserError(f"{uri}: {error}") from error


def _header(uri: str, data: bytes) -> tuple[int, int]:
    """Width and height in an image's header."""
    try:
        with Image.open(io.BytesIO(data), formats=imaging.FORMATS) as image:
            return image.size
    except Exception as error:  # what a damaged header makes Pillow raise is of any kind
        raise UserError(f"{uri}: {'not an image' if data else 'empty file'}") from error
