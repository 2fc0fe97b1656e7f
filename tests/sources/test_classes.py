"""A class is called what its user, ImageNet, or its folder calls it."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import classes, imagefolder
from ddps_ray.sources.listing import Options


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
    table.write_text("n01440764,tench\nn01443537,goldfish\n")  # without a header, its first line is a class
    with pytest.raises(UserError, match=r"^data\.classes: no name for class n01484850 in .*names\.csv; it has 2 lines"):
        classes.names(["n01440764", "n01484850"], classes.read(str(table)))


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


def positions(tmp_path: Path, text: str, *labels: int) -> dict[str, tuple[int, str]]:
    """Label and name of each class of a data set that numbers them."""
    (tmp_path / "names.csv").write_text(text)
    found = classes.numbered("root", labels, None, classes.read(str(tmp_path / "names.csv")))
    return {class_id: (label, found.texts[class_id]) for class_id, label in found.labels.items()}


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("id,name\nape,an ape\nbee,a bee\n", (0, 1), {"ape": (0, "an ape"), "bee": (1, "a bee")}),
        ("ape,an ape\nbee,a bee\n", (0, 1), {"ape": (0, "an ape"), "bee": (1, "a bee")}),  # both lines are needed
        ("Tier,Wort\nape,an ape\nbee,a bee\n", (0, 1), {"ape": (0, "an ape"), "bee": (1, "a bee")}),  # three do not fit
        ("ape,an ape\nbee,a bee\ncat,a cat\n", (2,), {"cat": (2, "a cat")}),  # or there would be no line for 2
        ("3,cat\n0,ape\n2,bee\n", (0, 2, 3), {"0": (0, "ape"), "2": (2, "bee"), "3": (3, "cat")}),  # numbers are labels
        ("0,ape\n1,bee\n2,cat\n", (0, 2), {"0": (0, "ape"), "2": (2, "cat")}),  # of which not all need be used
        ("1,ape\n2,bee\n", (1, 2), {"1": (1, "ape"), "2": (2, "bee")}),
        ("1,ape\n01,bee\n", (0, 1), {"1": (0, "ape"), "01": (1, "bee")}),
        ("1,ape\n01,bee\n", (1,), {"01": (1, "bee")}),  # the same number, so that only the place tells
        ("key,a key\nlock,a lock\n", (0, 1), {"key": (0, "a key"), "lock": (1, "a lock")}),
        ("label,Wort\nape,an ape\nbee,a bee\n", (0, 1), {"ape": (0, "an ape"), "bee": (1, "a bee")}),
        ("1,ape\n2,bee\n", (0, 1), {"1": (0, "ape"), "2": (1, "bee")}),  # numbers of lines
    ],
)
def test_a_line_is_whose_label_it_can_only_be(
    tmp_path: Path, text: str, labels: tuple[int, ...], expected: dict[str, tuple[int, str]]
) -> None:
    assert positions(tmp_path, text, *labels) == expected


@pytest.mark.parametrize(
    ("text", "labels", "said"),
    [
        ("id,name\nape,x\nbee,y\n", (0, 2), "an image with label 2; there are names for 0 to 1"),
        ("id,name\nape,x\nbee,y\ncat,z\n", (0, 1), r"has 3 lines, and root the labels 0 to 1"),
        ("Tier,Wort\nape,x\nbee,y\ncat,z\n", (0, 1), r"has 4 lines, and root the labels 0 to 1"),
        ("ape,x\nbee,y\ncat,z\ndog,z\n", (0, 2), "the first line, 'ape', could be a header or a class"),
        ("key,w\nlock,x\nmug,y\npen,z\n", (0, 2), "the first line, 'key', could be a header or a class"),
        ("1,x\n2,y\n3,z\n", (1,), "its lines are numbered from 1, and the labels could count from 0"),
        ("5,x\n7,y\n", (0, 7), "an image with label 0, for which .*names.csv has no line"),
        ("0,nothing\n1,x\n2,y\n", (0, 1), "has 3 lines, and root the labels 0 to 1"),
    ],
)
def test_a_line_that_could_be_another_labels_is_refused(
    tmp_path: Path, text: str, labels: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        positions(tmp_path, text, *labels)
    assert "\n" not in str(caught.value)


def test_a_renumbered_part_of_imagenet_does_not_get_the_names_of_its_first_classes() -> None:
    packaged = classes.read(classes.IMAGENET)
    for count in (1, 10, 999):
        with pytest.raises(UserError, match=rf"imagenet-1k has 1000 lines, and root the labels 0 to {count - 1}: "):
            classes.numbered("root", range(count), None, packaged)
    with pytest.raises(UserError, match="give a table of the data set's own classes, a line a label, in the order"):
        classes.numbered("root", range(10), None, packaged)
    own = classes.numbered("root", [0, 217, 482], None, packaged)
    assert own.texts == {"n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player"}
    every = classes.numbered("root", range(1000), None, packaged)
    assert every.texts == dict(packaged)
    assert list(every.labels.values()) == list(range(1000))
    folders = classes.ordered(["n02979186", "n02102040"], packaged)
    assert folders.texts == {"n02102040": "English springer", "n02979186": "cassette player"}
    assert folders.wnids == {}, "only of those that are none themselves"


def test_a_header_that_is_a_class_as_well_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("label,name\nape,an ape\n")
    given = classes.read(str(tmp_path / "names.csv"))
    assert classes.names(["ape"], given) == {"ape": "an ape"}
    with pytest.raises(UserError, match="begins with 'label', which is a class and could be a header as well"):
        classes.names(["ape", "label"], given)
    (tmp_path / "names.csv").write_text("zebra,striped horse\nape,an ape\n")
    given = classes.read(str(tmp_path / "names.csv"))
    assert classes.names(["ape", "zebra"], given) == {"ape": "an ape", "zebra": "striped horse"}


def test_wordnet_ids_of_the_third_column_go_with_the_classes(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("00000,tench,n01440764\n00001,fish\n")
    found = classes.ordered(["00001", "00000"], classes.read(str(tmp_path / "names.csv")))
    assert found.texts == {"00000": "tench", "00001": "fish"}
    assert [found.wnid(class_id) for class_id in ("00000", "00001", "n02102040")] == ["n01440764", None, "n02102040"]


def test_names_of_a_subset_of_imagenet_become_its_wordnet_ids() -> None:
    packaged = classes.read(classes.IMAGENET)
    found = classes.numbered("root", [1, 0], ["bonnet, poke bonnet", "maillot", "no class of it"], packaged)
    assert found.texts == {"n02869837": "bonnet", "n03710637": "maillot"}
    assert found.labels == {"n02869837": 0, "n03710637": 1}
    with pytest.raises(UserError, match="'no class of it' is none of its names"):
        classes.numbered("root", [0, 2], ["bonnet, poke bonnet", "maillot", "no class of it"], packaged)
    folders = classes.ordered(["tench", "golden_retriever"], packaged)
    assert folders.texts == {"golden_retriever": "golden retriever", "tench": "tench"}
    assert folders.wnids == {"golden_retriever": "n02099601", "tench": "n01440764"}


@pytest.mark.parametrize(
    "text",
    [
        *("00000", "00013", "1", "12-3", "#7", "-", "...", "🐱"),
        *(
            "class 07",
            "class07",
            "Class-7",
            "CLASS 12",
            "cls007",
            "label 5",
            "type 3",
            "Group 4",
            "item#4",
            "New folder (2)",
        ),
        *("klasse 3", "категория 3", "c3", "c 3", "C03", "s01", "A", "b", "A B", "0 1"),
        *("n99999999", "3f2a9b1c", "DEADBEEF01", "550e8400-e29b-41d4-a716-446655440000", "m 01g317", "Q12345"),
        *("nan", "None", "null"),
    ],
)
def test_a_name_that_is_none_is_found(text: str) -> None:
    assert classes.nameless(["cat", text, "dog"]) == [text]


def test_real_names_are_left_alone() -> None:
    names = (
        "T-shirt|x-ray|cat|hot dog|crane|F-16|A320|DC-10|Boeing 747|707 airliner|7up|4x4|K-9|AK47|TV|vitamin C|set|"
        "class|label|key 5|speed limit 30|1960s|001.Black footed Albatross|猫|Ж|5 euro|facade|decade|beef|no entry|"
        "index finger"
    )
    assert classes.nameless(names.split("|")) == []
    assert classes.nameless(classes.read(classes.IMAGENET).values()) == []


def test_a_class_id_is_no_longer_than_a_files_name() -> None:
    assert classes.safe("é" * 127) == "é" * 127
    cut = classes.safe("é" * 128)
    assert len(cut.encode()) <= 255
    assert cut.startswith("é" * 100)
    assert classes.safe("é" * 128 + "x") != cut


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese spaniel"]),
        (["n01440764", "n02085782_Japanese_spaniel", "bus_stop"], ["tench", "Japanese spaniel", "bus stop"]),
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"], ["Black footed Albatross", "Laysan Albatross"]),
        (["00000_Animalia_Annelida", "00001_Animalia_Chordata"], ["Animalia Annelida", "Animalia Chordata"]),
        (["1 - кот", "2 - пёс"], ["кот", "пёс"]),
        (["001.ak47", "002.flag", "003_07"], ["001.ak47", "002.flag", "003 07"]),  # not all of them
        (["2_door_car", "4_door_car"], ["2 door car", "4 door car"]),  # or they would be the same
        (["10-19 years", "20-29 years"], ["10-19 years", "20-29 years"]),
        (["7_up"], ["7 up"]),
        (["n02085620_1", "n02085620_2"], ["n02085620 1", "n02085620 2"]),
        (["3D_model", "4x4"], ["3D model", "4x4"]),
    ],
)
def test_codes_in_front_of_folders_stay_out_of_the_prompt(ids: list[str], texts: list[str]) -> None:
    assert classes.names(ids) == dict(zip(ids, texts, strict=True))
    published = classes.numbered("root", range(len(ids)), ids, None)
    assert published.texts == dict(zip(ids, texts, strict=True))


def test_two_labels_that_are_one_wordnet_id_do_not_shift_the_names_behind_them() -> None:
    with pytest.raises(UserError, match="two of the data set's own classes are called 'n01440764'"):
        classes.numbered("root", [0, 2], ["n01440764", "n01440764", "n01443537"], None)


def test_a_wordnet_id_in_front_of_a_folder_is_known_to_a_teacher(tmp_path: Path) -> None:
    ids = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    wnids = {each: each[:9] for each in ids}
    assert classes.ordered(ids).wnids == wnids
    assert classes.numbered("root", [0, 1], ids, None).wnids == wnids
    assert classes.ordered(ids, dict.fromkeys(ids, "dog")).wnids == wnids
    packaged = classes.ordered(ids, classes.read(classes.IMAGENET))
    assert packaged.texts == {ids[0]: "Chihuahua", ids[1]: "Japanese spaniel"}
    assert packaged.wnids == wnids
    (tmp_path / "names.csv").write_text(f"{ids[0]},dog,n02102040\n{ids[1]},toy\n")
    assert classes.ordered(ids, classes.read(str(tmp_path / "names.csv"))).wnids == {**wnids, ids[0]: "n02102040"}
    assert classes.ordered(["001.n02085620", "002.cat"]).wnids == {}


def test_folders_with_codes_at_any_depth(tmp_path: Path) -> None:
    for leaf in ("1_toys/n02085620-Chihuahua", "1_toys/n02085782-Japanese_spaniel"):
        (tmp_path / "train" / leaf).mkdir(parents=True)
        (tmp_path / "train" / leaf / "1.jpg").write_bytes(b"x")
    found = imagefolder.list_images(str(tmp_path), ["train"], options=Options(class_folders="leaf"))
    assert {row["class_id"]: row["wnid"] for row in found.splits["train"].to_pylist()} == {
        "1_toys_n02085620-Chihuahua": "n02085620",
        "1_toys_n02085782-Japanese_spaniel": "n02085782",
    }
    assert list(found.class_texts.values()) == ["1 toys Chihuahua", "1 toys Japanese spaniel"]


def test_a_long_name_is_judged_at_once() -> None:
    text = "class" + "1" * 2_000_000 + "x"  # more than an hour where the time grows with the square
    assert classes.nameless([text]) == [text]
