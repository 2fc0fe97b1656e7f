"""A root in a store that is no data set costs few requests, and one that is costs fewer still."""

import itertools

import pytest

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import imagefolder, layouts
from tests.stores.conftest import Store
from tests.stores.flaky import flaky


@pytest.mark.parametrize(("wide", "most"), [(2, 40), (4, 110)])
def test_folders_of_nothing_are_each_looked_into_once_and_not_all(store: Store, wide: int, most: int) -> None:
    for place in itertools.product(range(wide), repeat=3):
        storage.write_bytes(store.uri(f"nothing{wide}/{'/'.join(map(str, place))}/notes.txt"), b"x")
    with flaky(store.address, share=0) as proxy:
        assert layouts.find(store.uri(f"nothing{wide}", proxy.address), ["train", "val"]) == "imagefolder"
    assert sum(proxy.attempts.values()) <= most


def test_a_folder_that_is_a_data_set_is_known_by_a_few_requests(store: Store) -> None:
    for class_id in range(3):
        storage.write_bytes(store.uri(f"few/train/{class_id}/1.jpg"), b"x")
    with flaky(store.address, share=0) as proxy:
        assert layouts.find(store.uri("few", proxy.address), ["train"]) == "imagefolder"
    assert sum(proxy.attempts.values()) <= 6


def test_classes_are_listed_in_order_whichever_answer_comes_first(store: Store) -> None:
    for class_id in range(40):
        storage.write_bytes(store.uri(f"many/train/{class_id:02d}/1.jpg"), b"x")
        storage.write_bytes(store.uri(f"many/train/{class_id:02d}/x.{class_id % 3}"), b"x")
    with flaky(store.address, share=0.1, seed=3) as proxy:
        found = imagefolder.list_images(store.uri("many", proxy.address), ["train"])
    assert found.splits["train"]["image_id"].to_pylist() == [f"train/{class_id:02d}/1.jpg" for class_id in range(40)]
    assert found.notes == ("other files are skipped: 14 .0, 13 .1, 13 .2",)
    for class_id in (7, 8):
        storage.write_bytes(store.uri(f"many/train/{class_id:02d}x/notes.txt"), b"x")
    with pytest.raises(UserError, match=r"train/07x.* has no images, but 1 \.txt"):
        imagefolder.list_images(store.uri("many"), ["train"])
