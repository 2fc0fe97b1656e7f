"""Curves of a training whose run directory is in a store."""

from pathlib import Path

from ddps_ray import storage
from ddps_ray.students.curves import Curves
from tests.stores.conftest import Store
from tests.students.curves import Scalars, scalars
from tests.students.test_curves import POINTS


def _there(uri: str, folder: Path) -> Scalars:
    """What TensorBoard reads of a copy of the folder."""
    folder.mkdir()
    for file in storage.list_files(uri):
        (folder / file.base_name).write_bytes(storage.read_bytes(storage.join(uri, file.base_name)))
    return scalars(folder)


def test_what_was_kept_is_there_after_a_kill_and_once_when_the_training_has_gone_on(
    store: Store, tmp_path: Path
) -> None:
    uri = store.uri("curves/tensorboard/typical/ipc=1/seed=0")
    killed = Curves(uri, [])
    for point in POINTS[:4]:
        killed.add(point)
    killed.keep()
    killed.add(POINTS[4])
    assert [step for step, _ in _there(uri, tmp_path / "killed")["loss"]] == [1, 2, 3, 4]
    with Curves(uri, POINTS[:4]) as curves:
        assert [step for step, _ in _there(uri, tmp_path / "again")["loss"]] == [1, 2, 3, 4]
        for point in POINTS[4:]:
            curves.add(point)
    made = _there(uri, tmp_path / "done")
    assert [step for step, _ in made["loss"]] == [1, 2, 3, 4, 5, 6, 7]
    assert made["accuracy"] == [(4, 0.25)]
