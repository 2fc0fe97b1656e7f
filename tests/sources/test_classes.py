"""A class is called what its user, ImageNet, or its folder calls it."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import classes


def test_a_wordnet_id_gets_its_first_imagenet_name_and_another_folder_its_own() -> None:
    ids = ["n01440764", "golden_retriever", "n00000000", "n0144076", "n02012849", "n03126707", "_"]
    named = classes.names(ids)
    assert named == {
        "n01440764": "tench",
        "golden_retriever": "golden retriever",
        "n00000000": "n00000000",  # looks like a WordNet id, is none
        "n0144076": "n0144076",
        "n02012849": "crane",
        "n03126707": "crane",
        "_": "_",
    }
    assert list(named) == ids
    assert classes.ambiguous(named) == ["crane"]


def test_the_users_names_win_over_imagenets(tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text('\ufeffid,name,note\nn01440764,"fish, the big one",x\n\n a , first letter \nunused,?\n', "utf-8")
    given = classes.read(table.as_uri())
    assert classes.names(["a", "n01440764"], given) == {"a": "first letter", "n01440764": "fish, the big one"}


def test_a_class_without_a_name_of_the_users_is_named(tmp_path: Path) -> None:
    table = tmp_path / "names.csv"
    table.write_text("n01440764,tench\nn01443537,goldfish\n")  # no header: its first class is taken for one
    with pytest.raises(UserError, match=r"^data\.classes: no name for class n01440764 .*header"):
        classes.names(["n01440764", "n01443537"], classes.read(str(table)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,name\na,one\nb\n", "line 3: no name for class b"),
        (b"id,name\na,one\na,two\n", "line 3: a second name for class a"),
        (b"id,name\na,one\na,one\n", "line 3: a second name for class a"),  # or the lines would not count the labels
        (b"id,name\n\xff\xfe,one\n", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    table = tmp_path / "names.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        classes.read(str(table))
    assert str(table) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_packaged_table_is_imagenets_in_the_order_of_its_labels() -> None:
    table = classes.read(classes.IMAGENET)
    assert (len(table), list(table) == sorted(table)) == (1000, True)
    assert next(iter(table.items())) == ("n01440764", "tench")
    assert list(table.items())[-1] == ("n15075141", "toilet tissue")


@pytest.mark.parametrize(
    ("name", "class_id"),
    [
        ("hot dog", "hot dog"),
        ("a/b\\c", "a_b_c"),
        ("..", "__"),
        (".", "_"),
        ("", "_"),
        ("a\nb\0", "a_b_"),
        (" ü ", "ü"),
    ],
)
def test_a_class_id_can_be_a_folders_name(name: str, class_id: str) -> None:
    assert classes.safe(name) == class_id
