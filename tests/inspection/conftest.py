"""A run directory as `index` and `score` leave it, with twelve images of which two could not be scored."""

from pathlib import Path

import pytest

from ddps_ray import conclusion, manifest, schemas, shards, storage
from ddps_ray.storage import Run
from tests.selection.rows import failed, score_table, scored

CLASSES = ("fish", "leaf", "sign")
IDS = [f"train/{class_id}/{number}.png" for class_id in CLASSES for number in range(4)]
BAD = ("train/fish/3.png", "train/sign/0.png")


def shard(run_dir: Path, number: int) -> Path:
    """One of the three shards."""
    return run_dir / "scores" / f"5eed_{number:06d}-0.parquet"


def _row(image_id: str) -> dict[str, object]:
    class_id = image_id.split("/")[1]
    changes = {"class_id": class_id, "label": CLASSES.index(class_id)}
    return failed(image_id, **changes) if image_id in BAD else scored(image_id, 0, 0, 0.5, **changes)


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """Its scoring has begun, and five of the twelve images are in the first shard."""
    run = Run(str(tmp_path / "run"))
    run.claim("index", {})
    listed = [_row(image_id) | {"class_text": "x", "split": "train", "wnid": None} for image_id in IDS]
    listed.append(listed[0] | {"image_id": "val/fish/0.png", "split": "val"})
    columns = {name: [row[name] for row in listed] for name in schemas.MANIFEST.names}
    run.finish("index", {"images": 13, "files": manifest.write(run, "train", schemas.table(columns, schemas.MANIFEST))})
    run.claim("score", {"split": "train"})
    storage.write_table(str(shard(Path(run.uri), 0)), score_table([_row(i) for i in IDS[:5]]), shards.ROWS_PER_GROUP)
    return run


@pytest.fixture
def finished(begun: Run) -> Run:
    """All twelve images are in three shards."""
    for number, ids in {1: IDS[5:10], 2: IDS[10:]}.items():
        storage.write_table(str(shard(Path(begun.uri), number)), score_table([_row(image_id) for image_id in ids]))
    begun.finish("score", conclusion.conclude(begun.uri, "train"))
    return begun
