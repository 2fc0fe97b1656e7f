"""CIFAR-10 and CIFAR-100 in their published binary layout: records of labels and three planes of 32×32 bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ddps_ray import storage
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import advice, classes, folders, listing, locators
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

_PLANES = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar:
    """One of the two.

    Attributes:
        names_file: Names of the classes, a line each.
        files: Files of each split.
        labels: Bytes before the planes; the last one is the label.
    """

    names_file: str
    files: Mapping[str, tuple[str, ...]]
    labels: int

    def recognises(self, root: str, splits: Sequence[str]) -> bool:
        """Whether a folder has the names and a file of images."""
        first = self.files["train"][0]
        return all(folders.has(root, name) for name in (self.names_file, first))

    def list_images(
        self,
        root: str,
        splits: Sequence[str],
        names: Mapping[str, str] | None = None,
        ground_truth: str | None = None,
        options: Options = PLAIN,
    ) -> Listing:
        """Lists a data set in the order of its files; a class id is the class's name, a label the data set's own.

        Args:
            root: Folder or URI.
            splits: Of `train` and `test`, the training split first.
            names: The user's names of the classes.
            ground_truth: Not used.
            options: Not used.

        Raises:
            UserError: There is no such split, a file is absent or of another size, or a label has no name.
        """
        folders.check_root(root)
        for split in splits:
            if split not in self.files:
                raise advice.no_split(root, split, splits, self.files)
        lines = folders.read_text(storage.join(root, self.names_file), "data").splitlines()
        published = [line.strip() for line in lines if line.strip()]
        labels = {split: {name: self._labels(root, name) for name in self.files[split]} for split in splits}
        used = {int(label) for files in labels.values() for values in files.values() for label in np.unique(values)}
        known = classes.numbered(root, used, published, names)
        tables = {
            split: pa.concat_tables([self._rows(root, split, name, values, known) for name, values in files.items()])
            for split, files in labels.items()
        }
        return Listing(tables, known.texts, skipped=0)

    def _labels(self, root: str, name: str) -> np.ndarray:
        uri = storage.join(root, name)
        try:
            data = np.frombuffer(storage.read_bytes(uri), np.uint8)
        except OSError as error:
            raise UserError(f"data: {uri} cannot be read: {first_line(error)}") from error
        record = self.labels + _PLANES
        if not data.size or data.size % record:
            raise UserError(f"data: {uri} has {data.size} bytes, which are not whole records of {record}")
        return np.array(data.reshape(-1, record)[:, self.labels - 1])

    def _rows(self, root: str, split: str, name: str, labels: np.ndarray, known: Classes) -> pa.Table:
        uri, record = storage.join(root, name), self.labels + _PLANES
        index = pc.index_in(
            pa.array(labels.astype(np.int32)), value_set=pa.array(list(known.labels.values()), pa.int32())
        )
        class_ids = pa.array(list(known.labels), pa.string()).take(index)
        stem = name.removesuffix(".bin")
        image_ids = [f"{split}/{class_id}/{stem}-{n:05d}" for n, class_id in enumerate(class_ids.to_pylist())]
        uris = [locators.part(uri, "planes", n * record + self.labels, _PLANES) for n in range(len(labels))]
        return listing.rows(split, image_ids, uris, class_ids, known)


CIFAR10 = Cifar(
    "batches.meta.txt",
    {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    labels=1,
)
CIFAR100 = Cifar("fine_label_names.txt", {"train": ("train.bin",), "test": ("test.bin",)}, labels=2)
