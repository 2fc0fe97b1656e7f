"""A teacher's weights, class order and description in an object store."""

import io
from pathlib import Path

import pytest
import torch

from ddps_ray import storage
from ddps_ray.config import Network, Teacher
from ddps_ray.errors import UserError
from ddps_ray.students import networks, teachers
from tests.stores.conftest import Store

SMALL = Network(arch="convnet2", width=8)


def test_a_state_dict_and_its_class_order(store: Store) -> None:
    network = networks.build(SMALL, 2, 16).eval()
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    weights, order = store.uri("teachers/best.pth"), store.uri("teachers/order.txt")
    storage.write_bytes(weights, stream.getvalue())
    storage.write_bytes(order, b"dog\ncat\n")
    teacher = Teacher(model=SMALL, weights=weights, class_order=order)
    images = torch.randn(2, 3, 16, 16)
    made = teachers.load(teacher, "", ["cat", "dog"], 16)(images)
    assert torch.allclose(made, network(images)[:, [1, 0]], atol=1e-6)
    assert teachers.name("", teacher) == "convnet2-w8.best"


def test_a_teacher_of_another_run(store: Store, tmp_path: Path) -> None:
    network = networks.build(SMALL, 2, 16).eval()
    folder = store.uri("run/teacher")
    teachers.save(network, folder, SMALL, ["dog", "cat"], 0.5)
    images = torch.randn(2, 3, 16, 16)
    there = Teacher(weights=storage.join(folder, "model.safetensors"))
    assert torch.allclose(teachers.load(there, "", ["dog", "cat"], 16)(images), network(images), atol=1e-6)


def test_a_file_that_is_not_there(store: Store) -> None:
    with pytest.raises(UserError, match=r"teacher\.weights: there is no file s3://lake/absent\.pth"):
        teachers.check(Teacher(weights=store.uri("absent.pth"), class_order="imagenet-1k"), "", ["cat"])
