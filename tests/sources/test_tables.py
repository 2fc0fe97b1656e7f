"""A table of classes is read as it is written, whatever separates its cells, and its first line is not lost."""

from pathlib import Path

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import classes, tables
from ddps_ray.sources.tables import Table

WNIDS = ["n01440764", "n01443537", "n01484850"]
NAMES = ["tench, Tinca tinca", "goldfish", "great white shark"]
PLAIN = dict(zip(WNIDS, NAMES, strict=True))


def read(text: str) -> Table:
    return tables.parse("names.csv", text)


@pytest.mark.parametrize(
    "line",
    [
        '{},"{}"',
        '"{}","{}"',
        "{}\t{}",
        "{};{}",
        "{} ; {}",
        "{}|{}",
        "{} {}",
        '{} "{}"',
        '{}, "{}"',
    ],
)
@pytest.mark.parametrize("header", [None, ("wnid", "name"), ("class_id", "class name"), ("Ordner", "Bezeichnung")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_separator_with_a_header_or_without(line: str, header: tuple[str, str] | None, end: str) -> None:
    lines = [line.format(*pair) for pair in ([header] if header else [])]
    lines += [line.format(*pair) for pair in PLAIN.items()]
    found = read(end.join(lines) + end)
    assert dict(found) == PLAIN
    assert list(found) == WNIDS
    assert not found.unsure
    assert found.header == (header[0] if header else None)


@pytest.mark.parametrize(
    ("text", "names", "wnids"),
    [
        ("00000,tench,n01440764\n00013,bus,\n", {"00000": "tench", "00013": "bus"}, {"00000": "n01440764"}),
        ("id,name,wnid\nx,tench,n01440764\ny,bus\n", {"x": "tench", "y": "bus"}, {"x": "n01440764"}),
        ("Ordner,Name,Synset\nx,tench,n01440764\ny,fish,n01443537\n", {"x": "tench", "y": "fish"}, WNIDS[:2]),
        ("index,wnid,name\n0,n01440764,tench\n1,n01443537,fish\n", {"0": "tench", "1": "fish"}, WNIDS[:2]),
        ("0,n01440764,tench\n1,n01443537,fish\n", {"0": "tench", "1": "fish"}, WNIDS[:2]),
        ("wnid,label,name\nn01440764,0,tench\n", {"n01440764": "tench"}, {}),
        ("id,name,note\na,one,x\n", {"a": "one"}, {}),
        ("0 airplane\n1 fire engine\n", {"0": "airplane", "1": "fire engine"}, {}),
        ("5 euro,a coin\n10 euro,a note\n", {"5 euro": "a coin", "10 euro": "a note"}, {}),
        ("'a';'one, or more'\n'b';'two'\n", {"a": "one, or more", "b": "two"}, {}),
        ("# class,name\n\n a , one \n", {"a": "one"}, {}),
        ("id,description,name\na,long and wide,one\n", {"a": "one"}, {}),
        ("id,label,class_name\na,long and wide,one\n", {"a": "one"}, {}),
        ("id,description\na,one\n", {"a": "one"}, {}),
        ("0,0\n1,1\n", {"0": "0", "1": "1"}, {}),  # digits
        ("00,0\n01,1\n", {"00": "0", "01": "1"}, {}),
        ("1,1\n2,2\n10,0\n", {"1": "1", "2": "2", "10": "0"}, {}),
        ("speed,30\nparking,P\n", {"speed": "30", "parking": "P"}, {}),
        ("ape;a big, strong one\nbee;small, too\n", {"ape": "a big, strong one", "bee": "small, too"}, {}),
        ("ape|big;strong\nbee|small;quick\n", {"ape": "big;strong", "bee": "small;quick"}, {}),
    ],
)
def test_columns_are_what_the_header_or_their_contents_say(
    text: str, names: dict[str, str], wnids: dict[str, str] | list[str]
) -> None:
    found = read(text)
    assert dict(found) == names
    expected = wnids if isinstance(wnids, dict) else dict(zip(names, wnids, strict=True))
    assert dict(found.wnids) == expected


def test_a_first_line_of_words_may_be_either() -> None:
    found = read("ape,an ape\nbee,a bee\n")
    assert (dict(found), found.unsure) == ({"ape": "an ape", "bee": "a bee"}, True)


@pytest.mark.parametrize(
    "word", ["key", "type", "code", "tag", "target", "species", "name", "number", "directory", "label", "id", "index"]
)
def test_a_class_that_is_called_as_headers_are_may_be_one(word: str) -> None:
    for name in (f"a {word}", word):
        found = read(f"{word},{name}\nlock,a lock\n")
        assert (dict(found), found.unsure, found.header) == ({word: name, "lock": "a lock"}, True, None)
    found = read(f"{word},{'title' if word != 'title' else 'text'}\nlock,a lock\n")
    assert (dict(found), found.unsure, found.header) == ({"lock": "a lock"}, False, word)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (",name\n0,an ape\n1,a bee\n", {"0": "an ape", "1": "a bee"}),
        (",name\nape,an ape\nbee,a bee\n", {"ape": "an ape", "bee": "a bee"}),
        (",0\nape,an ape\nbee,a bee\n", {"ape": "an ape", "bee": "a bee"}),  # a Series without a name
        (",Wort\n0,an ape\n1,a bee\n", {"0": "an ape", "1": "a bee"}),
        (",wnid,name\n0,n01440764,tench\n", {"0": "tench"}),
        ("id,name\nape,an ape\n,\n,,\n", {"ape": "an ape"}),  # as a spreadsheet ends
    ],
)
def test_a_header_has_no_name_for_pandas_index(text: str, names: dict[str, str]) -> None:
    found = read(text)
    assert (dict(found), found.unsure) == (names, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class,index\nzebra,0\napple,2\nmug,1\n", "has numbers for names, such as 0 for zebra: put the number"),
        ("cat,0\ndog,1\n", "has numbers for names, such as 0 for cat"),
        ("name,label\ncat,0.0\ndog,1.0\n", r"has numbers for names, such as 0\.0 for cat"),
        ("n01440764 0\nn01443537 1\n", "has numbers for names, such as 0 for n01440764"),
        ("n01440764,0\nn01443537,1\n", "has numbers for names, such as 0 for n01440764"),
        ("name,wnid,label\ntench,n01440764,0\n", "has numbers for names, such as 0 for tench"),
        ("tench,0,n01440764\n", "has numbers for names, such as 0 for tench"),
        ("0,0\n1,1\n10,2\n11,3\n2,4\n", "has numbers for names, such as 2 for 10"),  # folders in the order of text
        ("ape,an ape\n,a bee\ncat,a cat\n", "line 2: no class id for 'a bee'"),
        (",an ape\nbee,a bee\n", "line 1: no class id for 'an ape'"),
        ("id;name\nape;an ape\n;a bee\n", "line 3: no class id for 'a bee'"),
        ("id,name,wnid\n,,n01440764\n", "line 2: no class id for 'n01440764'"),
        ("", "has no lines"),
        ("id,name\n", "has a header and no lines"),
        ("tench\ngreat white shark\n", "has one column"),
        ("0: airplane\n1: car\n", "has one column"),
        ('{"0": ["n01440764", "tench"]}', "is JSON"),
        ("n01440764,tench, Tinca tinca\nn01443537,goldfish\n", "line 1: 3 cells, where 2 are meant: put a name"),
        ("id,name\na,one\nb,two, or more\n", "line 3: 3 cells, where 2 are meant"),
        ('id,name\na,"one\nb,two\n', "line 2: no name for class a"),
        ("n02119789 1 kit_fox\nn02100735 2 setter\n", "line 1: '1 kit_fox' is no name"),
        ("00000,n01440764\n00001,n01443537\n", "line 1: 'n01440764' is no name"),
        ("id,name,wnid\na,one,n01440764\nb,two,n014\n", "line 3: 'n014' is no WordNet id"),
        ("id,name,wnid\na,one,n01440764\nb,two,n01440764\n", "has the WordNet id n01440764 for 2 classes"),
    ],
)
def test_a_table_that_says_something_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read(text)
    assert str(caught.value).startswith("data.classes: names.csv")
    assert "\n" not in str(caught.value)


def test_imagenets_thousand_lines_without_a_header_keep_the_first(tmp_path: Path) -> None:
    packaged = classes.read(classes.IMAGENET)
    for line in ('{},"{}"', "{} {}, and more"):
        (tmp_path / "table").write_text("\n".join(line.format(*pair) for pair in packaged.items()))
        found = classes.numbered("root", {0, 217, 482}, None, classes.read(str(tmp_path / "table")))
        assert [text.removesuffix(", and more") for text in found.texts.values()] == [
            "tench",
            "English springer",
            "cassette player",
        ]
        assert found.labels == {"n01440764": 0, "n02102040": 217, "n02979186": 482}
