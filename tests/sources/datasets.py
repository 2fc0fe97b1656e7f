"""The same images written in every layout, so that what a layout lists can be compared."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Images = Mapping[str, Mapping[str, Mapping[str, bytes]]]
"""Encoded images by split, class id and file name."""

_HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows(images: Images, split: str) -> list[tuple[str, str, bytes]]:
    """Class id, file name and bytes of a split's images, class by class."""
    return [(c, name, data) for c in sorted(images[split]) for name, data in sorted(images[split][c].items())]


def put(path: Path, data: bytes | str) -> None:
    """Writes a file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def imagefolder(root: Path, images: Images) -> None:
    for split in images:
        for class_id, name, data in rows(images, split):
            put(root / split / class_id / name, data)


def imagenet(root: Path, images: Images) -> None:
    imagefolder(root, {"train": images["train"]})
    truth = ["ImageId,PredictionString"]
    for class_id, name, data in rows(images, "val"):
        put(root / "val" / name, data)
        truth.append(f"{name.rpartition('.')[0]},{class_id} 1 2 30 40")
    put(root / "LOC_val_solution.csv", "\n".join(truth))


def hf_table(cells: list[dict[str, Any] | None], labels: list[int | None], names: list[str] | None) -> pa.Table:
    """A table as Hugging Face's datasets write it."""
    table = pa.table({"image": pa.array(cells, _HF), "label": pa.array(labels, pa.int64())})
    if names is None:
        return table
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def huggingface(root: Path, images: Images, files: int = 2) -> None:
    names = sorted(images["train"])
    for split in images:
        found = rows(images, split)
        size = -(-len(found) // files)
        for n in range(files):
            part = found[n * size : (n + 1) * size]
            cells: list[dict[str, Any] | None] = [{"bytes": data, "path": name} for _, name, data in part]
            table = hf_table(cells, [names.index(class_id) for class_id, *_ in part], names)
            path = root / "data" / f"{split}-{n:05d}-of-{files:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=4)


def tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def webdataset(root: Path, images: Images, files: int = 2) -> None:
    for split in images:
        found = rows(images, split)
        size = -(-len(found) // files)
        for n in range(files):
            members = {}
            for class_id, name, data in found[n * size : (n + 1) * size]:
                members[f"{class_id}/{name}"] = data
                members[f"{class_id}/{name.rpartition('.')[0]}.cls"] = class_id.encode()
            tar(root / f"some-{split}-{n:04d}.tar", members)


def tiny_imagenet(root: Path, images: Images) -> None:
    classes = sorted(images["train"])
    put(root / "wnids.txt", "\n".join(classes))
    for class_id in classes:
        found = images["train"][class_id]
        for name, data in found.items():
            put(root / "train" / class_id / "images" / name, data)
        put(root / "train" / class_id / f"{class_id}_boxes.txt", "".join(f"{name}\t0\t1\t9\t19\n" for name in found))
    lines = []
    for class_id, name, data in rows(images, "val"):
        put(root / "val" / "images" / name, data)
        lines.append(f"{name}\t{class_id}\t2\t3\t4\t5\n")
    put(root / "val" / "val_annotations.txt", "".join(lines))


WRITERS: Mapping[str, Callable[[Path, Images], None]] = {
    "imagefolder": imagefolder,
    "imagenet": imagenet,
    "huggingface": huggingface,
    "webdataset": webdataset,
    "tiny-imagenet": tiny_imagenet,
}
"""By the name of the layout."""
