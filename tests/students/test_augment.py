"""RDED's augmentation against hand-made images and torchvision."""

from collections import Counter

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as VF

from ddps_ray.students import augment
from ddps_ray.students.augment import Augmentation


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=seeded(7), dtype=torch.uint8)


def test_mosaic_shuffle_moves_whole_columns_then_whole_rows() -> None:
    mosaic = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).repeat_interleave(3, 0).repeat_interleave(3, 1)
    shuffled = augment.swap_halves(mosaic.expand(400, 3, 6, 6), torch.rand(2, 400, generator=seeded()) < 0.5)
    corners = Counter(tuple(image[0, ::3, ::3].flatten().tolist()) for image in shuffled)
    # Of the 24 orders of four patches only the four that keep columns and rows together, each a quarter of the time.
    assert set(corners) == {(1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 1, 2), (4, 3, 2, 1)}
    assert min(corners.values()) > 70
    for image in shuffled[:20]:
        assert all(quadrant.unique().numel() == 1 for half in image[0].split(3) for quadrant in half.split(3, 1))


def test_whole_images_are_flipped_alone_and_mosaics_shuffled_and_cut() -> None:
    image = noise(1, 8).expand(16, 3, 8, 8)
    single = Augmentation(8, (1.0, 1.0))(image, seeded())
    whole = augment.normalise(image[:1].float())
    flipped = whole.flip(3)
    found = [(torch.equal(got, whole[0]), torch.equal(got, flipped[0])) for got in single]
    assert set(found) == {(True, False), (False, True)}
    mosaic = Augmentation(8, (0.5, 1.0), shuffle=True)(image, seeded())
    assert sum(torch.allclose(got, whole[0]) or torch.allclose(got, flipped[0]) for got in mosaic) < 4


def test_boxes_have_the_area_and_ratio_that_torchvision_draws() -> None:
    boxes = augment.random_boxes(4000, 224, (0.5, 1.0), seeded())
    left, top, width, height = boxes.T
    assert bool((left >= 0).all() and (top >= 0).all())
    assert bool((left + width <= 224).all() and (top + height <= 224).all())
    area, ratio = width * height / 224**2, width / height
    assert area.min() > 0.49
    assert bool((ratio > 0.74).all() and (ratio < 1.35).all())
    drawn = [augment_reference(seed) for seed in range(600)]
    assert area.mean().item() == pytest.approx(sum(drawn) / len(drawn), abs=0.02)


def augment_reference(seed: int) -> float:
    """Area of the box that torchvision's RandomResizedCrop draws."""
    torch.manual_seed(seed)
    _, _, height, width = RandomResizedCrop.get_params(torch.zeros(3, 224, 224), [0.5, 1.0], [3 / 4, 4 / 3])
    return float(height * width / 224**2)


def test_boxes_of_the_whole_area_are_the_whole_image() -> None:
    boxes = augment.random_boxes(200, 32, (1.0, 1.0), seeded())
    assert bool((boxes[:, 2:] >= 31).all())


@pytest.mark.parametrize(("side", "size"), [(64, 64), (224, 224), (48, 64)])
def test_crop_equals_torchvisions(side: int, size: int) -> None:
    images = noise(4, side)
    boxes = augment.random_boxes(4, side, (0.25, 0.8), seeded(3))
    flips = torch.tensor([False, True, False, True])
    made = augment.resized_crop(images, boxes, flips, size)
    for image, (left, top, width, height), flip, got in zip(images, boxes.tolist(), flips, made, strict=True):
        wanted = VF.resized_crop(image.float(), top, left, height, width, [size, size], antialias=False)
        wanted = VF.hflip(wanted) if flip else wanted
        assert torch.allclose(got, wanted, atol=0.02)


def test_normalisation_equals_torchvisions() -> None:
    images = noise(2, 8)
    wanted = VF.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(augment.normalise(images.float()), wanted, atol=1e-5)


def test_cutmix_box_by_hand() -> None:
    # λ = 0.75: the side of the box is 64·√0.25 = 32, 16 to each side of the centre, clipped at the edge.
    assert augment.cutmix_box(64, 0.75, (30, 40)) == (14, 24, 46, 56)
    assert augment.cutmix_box(64, 0.75, (10, 60)) == (0, 44, 26, 64)
    assert augment.cutmix_box(64, 1.0, (10, 60)) == (10, 60, 10, 60)


def test_cutmix_pastes_one_box_of_a_partner_into_each_image() -> None:
    values = torch.arange(1.0, 9.0)
    images = values[:, None, None, None].expand(8, 3, 16, 16)
    for seed in range(20):
        cut = augment.draw_cut(8, 16, seeded(seed))
        mixed, partners, kept = augment.paste(images, cut), cut.partners_N, cut.kept
        changed = mixed != images
        moved = partners != torch.arange(8)
        assert all(kept == pytest.approx(1 - place[0].float().mean()) for place in changed[moved])
        assert all(image[place].tolist() == [] for image, place in zip(mixed[~moved], changed[~moved], strict=True))
        assert all(
            set(image[place].tolist()) <= {values[partner].item()}
            for image, place, partner in zip(mixed, changed, partners.tolist(), strict=True)
        )
        boxes = {tuple(map(tuple, place.nonzero().tolist())) for place in changed[:, 0] if place.any()}
        assert len(boxes) <= 1  # the same box everywhere, except where an image is its own partner
        inside = mixed[changed].unique() if boxes else torch.tensor([])
        assert set(inside.tolist()) <= set(values.tolist())
        for place, image in zip(changed, mixed, strict=True):
            assert image[place].unique().numel() <= 1
    assert torch.equal(images, values[:, None, None, None].expand(8, 3, 16, 16))


def test_cutmix_changes_the_area_that_theory_says() -> None:
    # A box of side r·S around a uniform centre, clipped, covers (r − r²/4)² of the image in the mean; with λ = 1 − r²
    # uniform that is ∫ (r − r²/4)² dr² = 1/2 − 1/5 + 1/48. One image in sixteen is its own partner.
    images = torch.arange(16.0)[:, None, None, None].expand(16, 1, 32, 32)
    cuts = [augment.draw_cut(16, 32, seeded(seed)) for seed in range(400)]
    changed = [(augment.paste(images, cut) != images).float().mean().item() for cut in cuts]
    assert sum(changed) / len(changed) == pytest.approx((1 / 2 - 1 / 5 + 1 / 48) * 15 / 16, abs=0.03)


def test_same_generator_same_batch() -> None:
    transform = Augmentation(16, (0.5, 1.0), shuffle=True)
    first, again, other = (transform(noise(8, 16), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
