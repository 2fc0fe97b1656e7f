"""From a folder of folders to manifest rows, and every way in which the folder can be wrong."""

import os
import re
from pathlib import Path

import pytest

from ddps_ray import schemas, storage
from ddps_ray.errors import UserError
from ddps_ray.sources import folders, imagefolder
from ddps_ray.sources.listing import Listing, Options

SPLITS = ["train", "val"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


def test_images_of_all_depths_and_spellings_are_listed_class_by_class(tmp_path: Path) -> None:
    images = [
        "a.JPEG",
        "b.jpg",
        "c.Png",
        "d.webp",
        "e.bmp",
        "f.gif",
        "g.tif",
        "h.TIFF",
        "sub/er/i.jpeg",
        "text inside.jpg",
    ]
    touch(tmp_path, *(f"train/zebra/{name}" for name in images), "train/ape/1.png", "val/zebra/0.png")
    touch(
        tmp_path, "train/README.txt", "train/loose.png", "train/zebra/sub/notes.md", "val/zebra/a.jpg.bak", "boxes.csv"
    )
    touch(
        tmp_path,
        "train/zebra/.hidden.png",
        "train/.cache/x.png",
        "train/zebra/.git/x.png",
        ".DS_Store",
        "other/y/z.png",
    )
    listing = imagefolder.list_images(str(tmp_path), SPLITS)
    train, val = listing.splits["train"], listing.splits["val"]
    schemas.check(train, schemas.MANIFEST)
    assert train["image_id"].to_pylist() == ["train/ape/1.png", *(f"train/zebra/{name}" for name in sorted(images))]
    assert train["uri"].to_pylist() == [str(tmp_path / name) for name in train["image_id"].to_pylist()]
    assert train["label"].to_pylist() == [0] + [1] * len(images)
    assert set(train["split"].to_pylist()) == {"train"}
    assert val.to_pylist() == [
        {
            "image_id": "val/zebra/0.png",
            "uri": str(tmp_path / "val/zebra/0.png"),
            "class_id": "zebra",
            "class_text": "zebra",
            "label": 1,  # as in train, though it is the only class here
            "split": "val",
            "wnid": None,
        }
    ]
    assert listing.class_texts == {"ape": "ape", "zebra": "zebra"}
    assert listing.skipped == 4  # README.txt, loose.png, notes.md, a.jpg.bak


LEAF = Options(class_folders="leaf")


def listed(root: Path, options: Options = LEAF, names: dict[str, str] | None = None) -> Listing:
    return imagefolder.list_images(str(root), SPLITS, names, options=options)


def test_each_ending_of_a_format_that_is_decoded_is_an_images(tmp_path: Path) -> None:
    endings = ["jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "tif", "tiff"]
    endings += ["ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "jpx", "avif"]
    assert {f".{ending}" for ending in endings} <= set(folders.extensions())
    touch(tmp_path, *(f"train/a/{n}.{ending}" for n, ending in enumerate(endings)), "train/b/1.JFIF", "val/a/1.Ppm")
    touch(tmp_path, "train/a/1.heic", "train/a/2.HEIC", "train/a/3.npy", "train/a/LICENSE", "train/a/4.tar.gz")
    found = listed(tmp_path, Options())
    assert found.splits["train"].num_rows == len(endings) + 1
    assert found.splits["val"]["image_id"].to_pylist() == ["val/a/1.Ppm"]
    assert found.skipped == 5
    assert found.notes == ("other files are skipped: 2 .heic, 1 without an ending, 1 .gz, 1 .npy",)


def test_images_without_a_class_folder_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/2.png", "train/3.png", "train/list.txt", "val/a/1.png")
    for options in (Options(), LEAF):
        found = listed(tmp_path, options)
        assert found.splits["train"]["image_id"].to_pylist() == ["train/a/1.png"]
        assert found.notes == (
            "2 images that lie in train itself, in no class folder, are skipped",
            "other files are skipped: 1 .txt",
        )
        assert found.skipped == 3


def test_folders_that_systems_leave_are_passed_over_at_every_level_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/cat/more/2.jpg", "val/cat/1.jpg")
    left = ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "#recycle", "@Recycle"]
    left += ["@Recently-Snapshot", ".Trash-1000", "Network Trash Folder", "Temporary Items", ".ipynb_checkpoints"]
    left += ["LOST.DIR", "FOUND.000", "~snapshot", "@__thumb", "__pycache__"]
    for name in left:
        touch(tmp_path, *(f"{place}/{name}/x/1.jpg" for place in ("train", "train/cat", "train/cat/more", "val")))
    (tmp_path / "train" / "lost+found").mkdir()
    for options, others in ((Options(), 0), (LEAF, 0)):
        found = listed(tmp_path, options)
        assert set(found.class_texts.values()) == ({"cat"} if options is not LEAF else {"cat", "cat more"})
        assert [rows.num_rows for rows in found.splits.values()] == [2, 1]
        assert found.skipped == others
        (note,) = found.notes
        said, _, more = note.partition(" and ")
        assert said.startswith("passed over, as systems leave them: train/")
        assert len(said.split(", ")) == 6
        assert more == f"{4 * len(left) + 1 - 5} more"


def test_a_folder_of_a_system_that_may_not_be_read_stops_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.jpg", "train/lost+found/#7", "train/cat/lost+found/#8", "val/cat/1.jpg")
    closed = [tmp_path / "train/lost+found", tmp_path / "train/cat/lost+found"]
    for folder in closed:
        folder.chmod(0)
    try:
        found = listed(tmp_path, Options())
    finally:
        for folder in closed:
            folder.chmod(0o700)
    assert found.splits["train"]["image_id"].to_pylist() == ["train/cat/1.jpg"]
    assert found.notes == ("passed over, as systems leave them: train/lost+found, train/cat/lost+found",)


def test_classes_are_the_folders_that_hold_images_where_that_is_said(tmp_path: Path) -> None:
    train = ["a/abbey/1.jpg", "a/apartment_building/outdoor/1.jpg", "a/apartment_building/outdoor/2.jpg", "zoo/3.jpg"]
    touch(tmp_path, *(f"train/{path}" for path in train), "val/a/apartment_building/outdoor/9.jpg", "val/a/notes.txt")
    found = listed(tmp_path)
    assert found.class_texts == {
        "abbey": "abbey",
        "apartment_building_outdoor": "apartment building outdoor",
        "zoo": "zoo",
    }
    rows = found.splits["train"].to_pylist()
    assert [(row["image_id"], row["label"]) for row in rows] == [
        ("train/abbey/1.jpg", 0),
        ("train/apartment_building_outdoor/1.jpg", 1),
        ("train/apartment_building_outdoor/2.jpg", 1),
        ("train/zoo/3.jpg", 2),
    ]
    assert rows[1]["uri"] == str(tmp_path / "train/a/apartment_building/outdoor/1.jpg")
    assert found.splits["val"]["image_id"].to_pylist() == ["val/apartment_building_outdoor/9.jpg"]
    assert found.notes == ("other files are skipped: 1 .txt",)
    named = listed(tmp_path, names={"abbey": "an abbey", "apartment_building_outdoor": "a house", "zoo": "a zoo"})
    assert list(named.class_texts.values()) == ["an abbey", "a house", "a zoo"]


def test_wordnet_ids_at_the_end_of_a_path_are_known(tmp_path: Path) -> None:
    touch(tmp_path, "train/fish/n01440764/1.jpg", "train/n01443537/1.jpg", "val/n01443537/1.jpg")
    found = listed(tmp_path)
    assert found.class_texts == {"fish_n01440764": "fish tench", "n01443537": "goldfish"}
    assert found.splits["train"]["wnid"].to_pylist() == ["n01440764", "n01443537"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train/x/b_c/1.jpg", "train/b_c/1.jpg", "val/b_c/1.jpg"], "the folders 'b_c' and 'x/b_c' would both be"),
        (["train/big/c/1.jpg", "val/b/big_c/1.jpg"], "the folders 'big/c' and 'b/big_c' would both be class 'big_c'"),
        (["train/b/c/1.jpg", "val/b/d/1.jpg"], "val/b/d is of a class that the training split lacks"),
        (["train/1.jpg", "val/b/1.jpg"], "train has no class folders; it has 1 images: move each into a folder"),
        (["train/a/1.txt", "val/b/1.jpg"], "train has no images, but 1 .txt"),
    ],
)
def test_folders_that_cannot_be_classes_are_named(tmp_path: Path, files: list[str], said: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=said):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("train", "first"),
    [
        (
            ["a/abbey/1.jpg", "a/airfield/1.jpg", "b/barn/1.jpg"],
            "a and 1 more class folders hold only folders, .*abbey",
        ),
        (["cat/1.jpg", "dog/big/1.jpg", "dog/small/1.jpg"], "dog holds only folders, such as 'big'"),
        (["cat/1.jpg", "dog/big/1.jpg"], "dog holds only folders"),
        (["cat/big/1.jpg", "dog/big/1.jpg", "dog/small/1.jpg"], "cat and 1 more class folders"),
        (["cat/images/1.jpg", "dog/images/1.jpg"], None),
        (["cat/images/1.jpg", "dog/1.jpg"], None),
        (["cat/originals/1.jpg", "dog/originals/1.jpg"], None),
        (["cat/1.jpg", "cat/more/1.jpg", "dog/1.jpg"], None),
    ],
)
def test_class_folders_that_hold_only_folders_are_warned_of(
    tmp_path: Path, train: list[str], first: str | None
) -> None:
    touch(tmp_path, *(f"train/{path}" for path in train))
    notes = imagefolder.list_images(str(tmp_path), ["train"]).notes
    if first is None:
        assert notes == ()
        return
    (note,) = notes
    assert re.match(rf"warning: {tmp_path}/train/{first}", note)
    assert note.endswith("if those are the classes, set data.class_folders=leaf")


def test_a_uri_lists_the_same_ids_and_its_rows_can_be_opened(tmp_path: Path) -> None:
    touch(tmp_path, "train/a class/50% #1?.png", "train/b/ü.png")
    by_path = imagefolder.list_images(str(tmp_path), ["train"]).splits["train"]
    by_uri = imagefolder.list_images(tmp_path.as_uri() + "/", ["train"]).splits["train"]
    assert by_uri.drop_columns("uri").equals(by_path.drop_columns("uri"))
    for path, uri in zip(by_path["uri"].to_pylist(), by_uri["uri"].to_pylist(), strict=True):
        assert uri.startswith("file:///")
        assert storage.open_uri(uri)[1] == path
        assert storage.read_bytes(uri) == b""


def test_the_users_names_reach_the_rows(tmp_path: Path) -> None:
    touch(tmp_path, "train/x1/0.png")
    rows = imagefolder.list_images(str(tmp_path), ["train"], {"x1": "fire engine"}).splits["train"]
    assert rows["class_text"].to_pylist() == ["fire engine"]


def test_a_link_that_leads_back_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/0.png", "elsewhere/1.png")
    (tmp_path / "train" / "a" / "round").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    rows = imagefolder.list_images(str(tmp_path), ["train"]).splits["train"]
    assert rows["image_id"].to_pylist() == ["train/a/0.png", "train/a/more/1.png"]


def test_links_that_lead_to_each_other_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/0.png", "train/b/1.png")
    (tmp_path / "train" / "a" / "x").symlink_to("../b")
    (tmp_path / "train" / "b" / "y").symlink_to("../a")
    for root in (str(tmp_path), tmp_path.as_uri()):
        rows = imagefolder.list_images(root, ["train"]).splits["train"]
        assert rows["image_id"].to_pylist() == ["train/a/0.png", "train/a/x/1.png", "train/b/1.png", "train/b/y/0.png"]


def test_many_folders_that_are_linked_to_each_other_take_no_time(tmp_path: Path) -> None:
    count = 60
    for n in range(count):
        touch(tmp_path, f"train/{n}/{n}.png")
        for step in (1, 2):
            (tmp_path / "train" / str(n) / f"next{step}").symlink_to(f"../{(n + step) % count}")
    rows = imagefolder.list_images(str(tmp_path), ["train"]).splits["train"]
    assert count <= rows.num_rows <= 3 * count * count
    assert set(rows["class_id"].to_pylist()) == set(map(str, range(count)))


def test_a_folder_that_is_linked_twice_is_two_classes(tmp_path: Path) -> None:
    touch(tmp_path, "disk/0.png", "disk/inner/1.png")
    for name in ("a", "b"):
        touch(tmp_path, f"train/{name}/own.png")
        (tmp_path / "train" / name / "all").symlink_to(tmp_path / "disk")
    rows = imagefolder.list_images(str(tmp_path), ["train"]).splits["train"]
    names = ["all/0.png", "all/inner/1.png", "own.png"]
    assert rows["image_id"].to_pylist() == [f"train/{class_id}/{name}" for class_id in "ab" for name in names]


def test_links_that_lead_nowhere_are_counted_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/0.png", "val/a/0.png")
    for place in ("train/a/1.png", "train/a/.hidden.png", "train/gone", "val/a/b"):
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    (tmp_path / "train" / "a" / "itself.png").symlink_to("itself.png")
    for options in (Options(), LEAF):
        found = listed(tmp_path, options)
        assert [rows.num_rows for rows in found.splits.values()] == [1, 1]
        assert found.notes == ("warning: 4 links that lead nowhere, skipped",)
        assert found.skipped == 4
    (tmp_path / "test").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=rf"data: {tmp_path}/test is a link that leads nowhere$"):
        imagefolder.list_images(str(tmp_path), ["train", "test"])
    (tmp_path / "train" / "a" / "0.png").unlink()
    with pytest.raises(UserError, match=r"train/a has no images, but 2 links that lead nowhere$"):
        listed(tmp_path, Options())


def test_a_split_that_is_all_there_is_in_a_folder_of_its_name_is_that_split(tmp_path: Path) -> None:
    touch(tmp_path, "seg_train/seg_train/sea/0.png", "seg_test/seg_test/sea/0.png", "seg_train/seg_train/sky/b/1.png")
    for options, ids in ((Options(), ["sea/0.png", "sky/b/1.png"]), (LEAF, ["sea/0.png", "sky_b/1.png"])):
        rows = imagefolder.list_images(str(tmp_path), ["seg_train", "seg_test"], options=options).splits
        assert rows["seg_train"]["image_id"].to_pylist() == [f"seg_train/{image_id}" for image_id in ids]
        assert rows["seg_test"]["uri"].to_pylist() == [str(tmp_path / "seg_test/seg_test/sea/0.png")]
    touch(tmp_path, "alone/alone/1.png")
    rows = imagefolder.list_images(str(tmp_path), ["alone"]).splits
    assert rows["alone"]["class_id"].to_pylist() == ["alone"], "which is a class that is called as its split"


def test_a_linked_split_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a/0.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "train").symlink_to(tmp_path / "disk")
    rows = imagefolder.list_images(str(tmp_path / "root"), ["train"]).splits["train"]
    assert rows["uri"].to_pylist() == [str(tmp_path / "root/train/a/0.png")]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["x.png"], "has no folder 'train'; it has none at all"),
        (["training/a/0.png", "valid/a/0.png"], "it has training, valid: set data.train=training"),
        (["Train/a/0.png", "val/a/0.png"], "it has Train, val: set data.train=Train"),
        (["train/a/0.png", "test/a/0.png"], "has no folder 'val'; it has test, train: set data.val=test"),
        (["train/a/0.png", "test/a/0.png", "validation/a/0.png"], "validation: set data.val=validation"),
        (["train/a/0.png", "dev/a/0.png"], "set data.val=dev"),
        (["train/a/0.png", "extra/a/0.png"], "it has extra, train; where there is none, set data.val=null"),
        (["cat/0.png", "dog/0.png"], "it has cat, dog; if these are the classes, move them into a folder train/ there"),
        (
            ["train_images/a/0.png", "test_images/a/0.png"],
            "it has test_images, train_images: set data.train=train_images",
        ),
        (["train_images/0.png", "test_images/0.png"], "it has test_images, train_images: set data.train=train_images"),
        (["train/a/0.png", "test_images/a/0.png"], "it has test_images, train: set data.val=test_images"),
        (["images/a/0.png", "images/b/0.png", "images.txt", "parts/x.txt"], "set data.train=images data.val=null"),
        (
            ["256/a/0.png", "256/b/0.png"],
            "{}/256 are the classes, and there are no splits, set data.train=256 data.val=n",
        ),
        (["f/images/a/0.png", "f/images/b/0.png", "f/meta/x"], "set data.root={}/f data.train=images data.val=null"),
        (
            ["S/a/abbey/0.png", "S/a/inn/0.png", "S/b/bar/0.png", "S/b/bog/0.png"],
            "data.train=S data.val=null data.class_folders=leaf",
        ),
        (["cat/0.png", "dog/0.png"], "set data.root={0.parent} data.train={0.name} data.val=null"),
        (
            [f"{n:03}/0.png" for n in range(99)],
            "it has 000, 001, 002, 003, 004, 005, 006, 007, 008, 009 and 89 more; if",
        ),
        (["train/0.png", "val/a/0.png"], "has no class folders; it has 1 images: move each into a folder of its class"),
        (["training/a/0.png", "val/a/0.png"], "has no folder 'train'; it has training, val"),
        (["train/a/0.png"], "has no folder 'val'; it has train"),
        (["train/0.png", "val/a/0.png"], "/train has no class folders"),
        (["train/a/0.png", "train/b/notes.txt", "val/a/0.png"], "/train/b has no images, but 1 .txt"),
        (["train/a/0.png", "val/a/0.png", "val/b/0.png"], "/val/b is of a class that the training split does not have"),
    ],
)
def test_a_folder_that_is_wrong_is_named(tmp_path: Path, files: list[str], said: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError) as caught:
        imagefolder.list_images(str(tmp_path), SPLITS)
    assert said.format(tmp_path) in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_that_is_not_there_empty_or_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "file")
    for name, said in [("absent", "does not exist"), ("empty", "it has none at all"), ("file", "cannot be listed")]:
        with pytest.raises(UserError, match=said) as caught:
            imagefolder.list_images(str(tmp_path / name), SPLITS)
        assert str(tmp_path / name) in str(caught.value)


def test_a_file_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/0.png")
    with open(os.fsencode(tmp_path) + b"/train/a/caf\xe9.png", "wb"):  # noqa: PTH123 - pathlib has no bytes
        pass
    with pytest.raises(UserError, match=r"train/a has a file whose name is not UTF-8: .*caf\\xe9"):
        imagefolder.list_images(str(tmp_path), ["train"])
