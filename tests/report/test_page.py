"""The page as a reader has it: right numbers, safe text, whole in itself, and there whatever has run."""

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddps_ray import schemas, storage
from ddps_ray.config import Distill, Recipe
from ddps_ray.errors import UserError
from ddps_ray.report import examples, localisation, page
from ddps_ray.report.distilled import DistilledSet
from ddps_ray.storage import Run
from tests.report.conftest import ODD_NAME, evaluation

MakeRun = Callable[..., Recipe]


class Reader(HTMLParser):
    """Collects a page's words, and every attribute that could load or lead to something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.silent_images = 0
        self.feed(text)
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.tags.append(tag)
        own = dict(attrs)
        self.silent_images += tag == "img" and not own.get("alt")
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [(name, value or "") for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:  # noqa: D102
        self.words.append(data)


@pytest.fixture(scope="module")
def whole(whole_run: Recipe) -> tuple[str, Reader]:
    return read(whole_run)


def read(recipe: Recipe) -> tuple[str, Reader]:
    text = storage.read_bytes(page.write(recipe)).decode()
    return text, Reader(text)


def test_numbers_are_the_ones_computed_by_hand(whole: tuple[str, Reader]) -> None:
    _, reader = whole
    for last, best in (
        ("42.0 ± 2.0", "43.0 ± 2.0"),
        ("32.0 ± 3.5", "33.0 ± 3.5"),
        ("62.0 ± 2.6", "63.0 ± 2.6"),
        ("53.0 ± 2.6", "54.0 ± 2.6"),
    ):
        assert f"3 300 {last} {best} 95.0 %" in reader.text  # seeds, epochs, last epoch, best epoch, teacher
    assert "judged 119 images of 10 classes; 3 images had to be set aside" in reader.text
    assert "“ddps” at 2 images per class, taught convnet3 to an accuracy of 62.0 ± 2.6 %" in reader.text
    assert "against 53.0 ± 2.6 % with random patches" in reader.text
    assert "score aspect ratio … is over … 2 score empty file 1" in reader.text
    assert "2026-01-01 10:00 2026-01-01 11:02 1 h 2 min 3 s images 1,190" in reader.text


def result(**changes: Any) -> dict[str, Any]:
    return evaluation()[0] | {"set_name": "other"} | changes


@pytest.mark.parametrize(
    "few",
    [
        result(accuracy_last=0.99, settings='{"classes": 2}', class_digest="few", images=2),
        result(accuracy_last=0.99, selector="random", settings='{"classes": 2}', class_digest="few"),
    ],
)
def test_a_set_of_few_classes_is_not_the_best(make_run: MakeRun, few: dict[str, Any]) -> None:
    recipe = make_run("score", "distill", "evaluate")
    add(recipe, few)
    _, reader = read(recipe)
    assert (
        "The best on all 10 classes, “ddps” at 2 images per class, taught convnet3 to an accuracy of 62.0"
        in reader.text
    )
    assert "62.0 % best accuracy on all 10 classes" in reader.text


@pytest.mark.parametrize(
    "changes",
    [
        {"ipc": 1},
        {"class_digest": "few"},
        {"class_digest": None},
        {"student": "convnet4"},
        {"teacher": "convnet4"},
        {"epochs": 200},
        {"settings": '{"classes": 10, "temperature": 1}'},
    ],
)
def test_like_is_compared_with_like(make_run: MakeRun, changes: dict[str, Any]) -> None:
    recipe = make_run("score")
    best = result(set_name="ddps", ipc=2, accuracy_last=0.9)
    add(recipe, best, result(set_name="chance", selector="random", ipc=2, accuracy_last=0.5) | changes)
    assert "taught convnet3 to an accuracy of 90.0 %; the teacher" in read(recipe)[1].text
    add(recipe, result(set_name="fair", selector="random", ipc=2, accuracy_last=0.4))
    assert "taught convnet3 to an accuracy of 90.0 %, against 40.0 % with random patches" in read(recipe)[1].text


def add(recipe: Recipe, *rows: dict[str, Any]) -> None:
    folder = Path(recipe.run_dir, "evaluation")
    folder.mkdir(exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in schemas.EVALUATION.names}
    pq.write_table(schemas.table(columns, schemas.EVALUATION), folder / f"{len(list(folder.iterdir()))}x.parquet")


def test_a_set_that_the_recipe_does_not_name_is_there_too(make_run: MakeRun) -> None:
    recipe = make_run("score", "distill")
    bare = recipe.model_copy(update={"distill": Distill()})
    assert read(bare)[1].text == read(recipe)[1].text.replace("ddps, random", "ddps")
    assert "4 distilled sets" in read(bare)[1].text


def test_sets_of_one_name_are_told_apart_by_their_settings(make_run: MakeRun) -> None:
    recipe = make_run("score", "distill")
    folder, run = Path(recipe.run_dir), Run(recipe.run_dir)
    record = run.record()
    later = record["stages"]["distill/ddps/ipc=2"]
    for seed, stage in enumerate(["distill/ddps/ipc=1", "distill/ddps/ipc=2", "distill/ddps/ipc=2~0badc0de"]):
        record["stages"][stage] = later | {"settings": {"selector": "ddps", "seed": seed // 2}}
    storage.write_json(run.path("run.json"), record)
    shutil.copytree(folder / "distilled" / "ddps" / "ipc=2", folder / "distilled" / "ddps" / "ipc=2~0badc0de")
    _, reader = read(recipe)
    shown = [word for word in reader.words if word.startswith(("ddps (", "random"))]
    assert {word.partition(":")[0] for word in shown} == {"ddps (seed=0)", "ddps (seed=1)", "random"}
    assert "5 distilled sets" in reader.text


def test_a_cluster_shows_its_own_median(whole: tuple[str, Reader]) -> None:
    text = whole[1].text
    assert re.search(r"Cluster 1 T = 7\.0+ 4 patches", text)
    assert re.search(r"Cluster 2 T = 6\.0+ 4 patches", text)


def test_rows_of_an_earlier_layout_are_read(make_run: MakeRun) -> None:
    recipe = make_run("score", "distill", "evaluate")
    before = read(recipe)[1].text
    for file in Path(recipe.run_dir).rglob("*.parquet"):
        rows = pq.read_table(file, partitioning=None)
        later = [field.name for field in rows.schema if field.metadata and b"layout" in field.metadata]
        pq.write_table(rows.drop_columns(later), file)
    after = read(recipe)[1].text
    assert "T = 7.00" in before
    assert "T = 7.00" not in after
    assert "against 53.0 ± 2.6 % with random patches" not in after, "of what classes they are is not known"
    assert "62.0 ± 2.6" in after


def test_page_is_whole_in_itself(whole: tuple[str, Reader]) -> None:
    text, reader = whole
    assert len(reader.links) > 100
    for name, value in reader.links:
        assert value.startswith("data:image/webp;base64," if name == "src" else "#"), (name, value)
    inside = {value[1:] for name, value in reader.links if name == "href"}
    assert inside <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert not [part for part in text.split("url(")[1:] if not part.startswith("#")]
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert reader.silent_images == 0
    assert len(text) < 8e6


def test_class_names_are_text(whole: tuple[str, Reader]) -> None:
    text, reader = whole
    assert ODD_NAME not in text
    assert reader.text.count(ODD_NAME) > 4  # chart, examples, clusters, distilled images


def test_localisation_is_there_if_boxes_are_named(whole: tuple[str, Reader], whole_run: Recipe) -> None:
    assert whole_run.report.boxes
    found = localisation.measure(Run(whole_run.run_dir), whole_run.report.boxes)
    assert "For 119 images the true box" in whole[1].text
    for place in found.placements:
        row = f"{place.text} {100 * place.holds.mean:.1f} % {100 * place.holds.low:.1f} to {100 * place.holds.high:.1f}"
        assert row in whole[1].text


def test_stages_that_have_not_run_are_named(make_run: MakeRun) -> None:
    text, reader = read(make_run("score", title="<script>alert(1)</script>"))
    assert "<script" not in text
    assert "place" not in reader.ids  # no boxes are named
    assert reader.text.count("Not run yet: ddps distill") == 2
    assert reader.text.count("Not run yet: ddps evaluate") == 1
    assert "None: every image could be read and scored" in reader.text


def test_without_scores_the_command_is_named(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match="run `ddps score` first"):
        page.run(make_run())


def test_run_says_where_the_page_is(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = make_run("score")
    page.run(recipe)
    assert f"{recipe.run_dir}/report/index.html" in capsys.readouterr().out


def test_same_rows_in_other_files_give_the_same_bytes(
    whole: tuple[str, Reader], whole_run: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(whole_run.run_dir, tmp_path / "run")
    shards = sorted((tmp_path / "run" / "scores").iterdir())
    rows = pa.concat_tables([pq.read_table(shard) for shard in reversed(shards)])
    for shard in shards:
        shard.unlink()
    pq.write_table(rows, tmp_path / "run" / "scores" / "one.parquet")
    moved, _ = read(whole_run.model_copy(update={"run_dir": str(tmp_path / "run")}))
    assert moved.replace(str(tmp_path / "run"), whole_run.run_dir) == whole[0]


def test_a_lost_image_leaves_a_note(make_run: MakeRun, tmp_path: Path) -> None:
    recipe = make_run("score")
    shard = Path(recipe.run_dir) / "scores" / "0.parquet"
    rows = pq.read_table(shard)
    lost = pa.array([str(tmp_path / "lost.png")] * len(rows), pa.string())
    place = rows.schema.get_field_index("uri")
    pq.write_table(rows.set_column(place, rows.schema.field(place), lost), shard)
    _, reader = read(recipe)
    assert "The image is no longer where it was" in reader.text
    assert "Highest typicality" in reader.text


def test_a_lost_distilled_image_is_named(make_run: MakeRun) -> None:
    recipe = make_run("score", "distill")
    lost = Path(recipe.run_dir) / "distilled" / "random" / "ipc=2" / "train" / "fish" / "00001.png"
    lost.unlink()
    with pytest.raises(UserError, match=str(lost)):
        page.write(recipe)


def test_only_so_many_classes_are_shown(make_run: MakeRun) -> None:
    _, reader = read(make_run("score", "distill", classes=3))
    assert reader.text.count("Shown are 3 of 10 classes") == 2


def test_examples_are_spread_over_classes() -> None:
    classes = np.array(list("aaaaaabbc"))
    assert examples.spread(np.arange(9), classes, 5) == [0, 1, 6, 7, 8]  # two of a class at most
    assert examples.spread(np.arange(9), classes, 3) == [0, 6, 8]
    assert examples.spread(np.arange(2), np.array(["a", "a"]), 5) == [0, 1]


def test_a_patch_is_cut_from_its_quarter(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    for slot, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9))):
        image.paste(colour, (slot % 2 * 4, slot // 2 * 4, slot % 2 * 4 + 4, slot // 2 * 4 + 4))
    image.save(tmp_path / "m.png")
    rows = [{"file": "m.png", "slot": slot, "class_id": "c"} for slot in range(4)]
    mosaic = DistilledSet("s", "ddps", 1, str(tmp_path), rows, "s")
    assert mosaic.patch(rows[2]).getcolors() == [(16, (0, 0, 255))]
    single = DistilledSet("s", "ddps", 1, str(tmp_path), rows[:1], "s")
    assert single.patch(rows[0]).size == (8, 8)
