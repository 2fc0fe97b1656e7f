"""What trainings leave behind: bad images, each listed once, wherever they lie."""

from pathlib import Path

import pyarrow.parquet as pq

from ddps_ray import schemas
from ddps_ray.pipeline import trainers
from ddps_ray.storage import Run


def test_bad_images_are_written_by_folder_whatever_that_is_called(tmp_path: Path) -> None:
    long = "é" * 127
    uris = [f"/data/val/{long}/1.jpg", f"/data/val/{long}/2.jpg", "/data/val/a-b/c/1.jpg", "/data/val/a/b-c/1.jpg"]
    uris += ["s3://bucket/x.tar?region=eu#bytes=512+10", "/data/val.parquet#column=img&row=7"]
    columns = dict.fromkeys(("image_id", "uri"), uris) | {"stage": ["evaluate"] * 6, "reason": ["empty file"] * 6}
    rows = schemas.table(columns, schemas.QUARANTINE)
    for _ in range(2):  # as each seed does, which meets the same images
        trainers.write_quarantine(Run(str(tmp_path)), "evaluate", rows)
    files = sorted((tmp_path / "quarantine").iterdir())
    assert all(file.name.startswith("evaluate-") for file in files)
    found = [row["uri"] for file in files for row in pq.read_table(file).to_pylist()]
    assert sorted(found) == sorted(uris)
    assert len(files) == 5
