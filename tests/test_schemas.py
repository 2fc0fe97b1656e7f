"""What stages pass on is checked when it is written, and is the same when it is read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddps_ray import schemas, storage

ROW: dict[str, Any] = {
    "image_id": ["train/a/x.png"],
    "uri": ["/data/train/a/x.png"],
    "class_id": ["a"],
    "class_text": ["a"],
    "label": [0],
    "split": ["train"],
    "wnid": [None],
}


def test_a_written_table_still_obeys_its_schema_when_read(tmp_path: Path) -> None:
    rows = schemas.table(ROW, schemas.MANIFEST)
    storage.write_table(str(tmp_path / "m.parquet"), rows)
    assert schemas.check(pq.read_table(tmp_path / "m.parquet"), schemas.MANIFEST).to_pydict() == ROW


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": ["zero"]}, "int"),
        ({"image_id": [None]}, "image_id has 1 nulls"),
        ({"colour": ["red"]}, "colour"),
        ({"split": []}, "length"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schemas.table(ROW | change, schemas.MANIFEST)


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError):
        schemas.table(ROW | {"class_id": [7]}, schemas.MANIFEST)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="uri"):
        schemas.table({name: column for name, column in ROW.items() if name != "uri"}, schemas.MANIFEST)


def test_a_column_that_came_later_need_not_be_given() -> None:
    required = {name: column for name, column in ROW.items() if name != "wnid"}
    assert schemas.table(required, schemas.MANIFEST).to_pydict() == ROW
    with pytest.raises(ValueError, match="label"):
        schemas.table({name: column for name, column in required.items() if name != "label"}, schemas.MANIFEST)


def test_a_table_of_another_type_or_nullability_is_refused() -> None:
    wide = pa.table({**ROW, "label": pa.array([0], pa.int64())})
    with pytest.raises(ValueError, match="schema differs"):
        schemas.check(wide, schemas.MANIFEST)


def test_a_score_row_may_have_an_error_alone_but_no_feature_of_another_length() -> None:
    schema = schemas.scores(dift_size=3)
    empty: dict[str, Any] = {name: [None] for name in schema.names}
    row = empty | {"image_id": ["i"], "uri": ["u"], "class_id": ["c"], "label": [1]}
    assert schemas.table(row | {"error": ["empty file"]}, schema).num_rows == 1
    with pytest.raises(ValueError, match="expected 3 but got array of size 2"):
        schemas.table(row | {"dift": [[0.5, 1.0]]}, schema)
    with pytest.raises(ValueError, match="label has 1 nulls"):
        schemas.table(row | {"label": [None]}, schema)
