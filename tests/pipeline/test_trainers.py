"""What trainings leave behind: bad images, each listed once, whichever classes a training has."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ddps_ray import schemas
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run


def _rows(*uris: str) -> pa.Table:
    columns = {key: list(uris) for key in ("image_id", "uri")}
    columns |= {"stage": ["evaluate"] * len(uris), "reason": ["empty file"] * len(uris)}
    return schemas.table(columns, schemas.QUARANTINE)


def _listed(run_dir: Path) -> list[str]:
    files = sorted((run_dir / "quarantine").iterdir())
    assert all(file.name.startswith("evaluate-") for file in files)
    return sorted(row["uri"] for file in files for row in pq.read_table(file).to_pylist())


def test_bad_images_are_written_by_class_whatever_that_is_called(tmp_path: Path) -> None:
    uris = ["/data/1.jpg", "/data/2.jpg", "s3://bucket/x.tar?region=eu#bytes=512+10", "/val.parquet#column=img&row=7"]
    for _ in range(2):  # as each seed does, which meets the same images
        trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(*uris), ["a/b", "a/b", "é" * 250, "a-b"])
    assert _listed(tmp_path) == sorted(uris)
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


def test_a_subset_of_the_classes_forgets_no_bad_image_of_the_others(tmp_path: Path) -> None:
    uris = ["/val/1.jpg", "/val/2.jpg", "/val/3.jpg"]  # all in one folder
    trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(*uris), ["a", "b", "c"])
    trainers.write_quarantine(Run(str(tmp_path)), "evaluate", _rows(uris[2]), ["c"])
    assert _listed(tmp_path) == uris
