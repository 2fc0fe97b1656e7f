"""`ddps table`: what it prints of rows made by hand, in each format and layout."""

import csv
import io
from pathlib import Path

import pytest

from ddps_ray import cli
from ddps_ray.report import accuracy, cells, formats, layouts, table
from ddps_ray.storage import Run
from tests.report.rows import Row, failure, row, run_with, seeds

TEN = '{"classes": 10, "batch": 50}'
DDPS = {0: 0.50, 1: 0.52, 2: 0.57}  # 53.0 ± 3.6
CHANCE = {0: 0.40, 1: 0.45, 2: 0.47}  # 44.0 ± 3.6; differences 10, 7, 10: 9.0 ± 4.3 (t of 2 degrees of freedom: 4.30)
ONE = {0: 0.30, 1: 0.32, 2: 0.34}
WHOLE = {0: 0.80, 1: 0.80, 2: 0.80}

MARKDOWN = """\
**10 classes, student convnet3, teacher resnet18, protocol rded**

| Set      |      IPC 1 |             IPC 10 |
| -------- | ---------: | -----------------: |
| ddps     | 32.0 ± 2.0 |         53.0 ± 3.6 |
| − random |            | +9.0 [+4.7, +13.3] |
| random   |          – |         44.0 ± 3.6 |
| whole    | 80.0 ± 0.0 |         80.0 ± 0.0 |

- Top-1 accuracy after the last epoch in %, mean ± sample standard deviation over 3 seeds.
- − random: mean difference to the random set, under the same settings and over the same seeds, with its 95 % interval \
(Student's t).
- batch: 10 of ddps; 128 of whole (IPC 1).
- batch: 50 of ddps, random; 128 of whole (IPC 10).

- Not trained: set ddps, IPC 10, student swin_t, teacher resnet18, protocol rded, seeds 0, 1: out of memory at 100 %
"""

LATEX = r"""\begin{table}
\centering
\caption{10 classes, student swin\_t, teacher resnet18, protocol rded}
\begin{tabular}{lr}
\toprule
Set & IPC 10 \\
\midrule
a\_b (ddps) & 53.0 $\pm$ 3.6 \\
$-$ random & +9.0 [+4.7, +13.3] \\
random & 44.0 $\pm$ 3.6 \\
\bottomrule
\end{tabular}
\par{\footnotesize Top-1 accuracy after the last epoch in \%, mean $\pm$ sample standard deviation over 3 seeds.}
\par{\footnotesize $-$ random: mean difference to the random set, under the same settings and over the same seeds, """
LATEX += r"""with its 95 \% interval (Student's t).}
\end{table}
"""

CSV = """\
run,data,set,selector,ipc,student,teacher,protocol,classes,class_digest,metric,mean,std,seeds,reference,pairs,difference,\
low,high,images,bytes,label_bytes,total_bytes,hlr,ior,lrs,ior_plain,ars,settings,failed
run,10 classes,ddps,ddps,10,convnet3,resnet18,rded,10,ten,last,53.0,3.6056,3,random,3,9.0,4.6973,13.3027,100,2000000,\
,2000000,,,,,,"{""batch"": 50, ""classes"": 10, ""epochs"": 300}",
run,10 classes,random,random,10,convnet3,resnet18,rded,10,ten,last,44.0,3.6056,3,,,,,,100,,,,,,,,,\
"{""batch"": 50, ""classes"": 10, ""epochs"": 300}",
run,,ddps,,10,swin_t,resnet18,rded,,,,,,0,,,,,,,,,,,,,,,,out of memory
"""


def at_ten(**changes: object) -> list[Row]:
    shared = {"ipc": 10, "images": 100, "settings": TEN} | changes
    return [*seeds(DDPS, **{"set_bytes": 2_000_000} | shared), *seeds(CHANCE, **shared | {"set_name": "random"})]


def whole(**changes: object) -> list[Row]:
    settings = '{"classes": 10, "batch": 128}'
    return seeds(WHOLE, **{"set_name": "whole", "ipc": 900, "images": 9000, "settings": settings} | changes)


def made(folder: Path, *rows: Row, failures: list[Row] | None = None, **options: str) -> str:
    run = run_with(folder / "run", *rows, failures=failures)
    return table.made([run.uri], **{"layout": "sets", "metric": "last", "form": "markdown"} | options)


def grid_lines(text: str) -> list[list[str]]:
    """The cells of each row of a Markdown table, headings and rules included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_markdown_has_methods_by_ipc_and_says_what_differs_and_what_failed(tmp_path: Path) -> None:
    reason = "out of memory at 100 %"
    failures = [failure(ipc=10, student="swin_t", seed=seed, reason=reason) for seed in (0, 1)]
    assert made(tmp_path, *seeds(ONE), *at_ten(), *whole(), failures=failures) == MARKDOWN


def test_latex_escapes_names_and_needs_booktabs_alone(tmp_path: Path) -> None:
    rows = [
        each | {"set_name": "a_b", "selector": "ddps"} if each["set_name"] == "ddps" else each
        for each in at_ten(student="swin_t")
    ]
    assert made(tmp_path, *rows, form="latex") == LATEX


def test_latex_escapes_every_sign_of_its_own(tmp_path: Path) -> None:
    failures = [failure(reason="50 % of {x}\nfailed")]
    text = made(
        tmp_path,
        row(student=r"a&b%c$d#e_f{g}h~i^j\k"),
        row(teacher="[b", student="*s"),
        failures=failures,
        form="latex",
    )
    assert r"student a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k, " in text
    assert text.endswith("seed 0: 50 % of {x} failed\n")
    assert text.splitlines()[-1].startswith("% Not trained: ")
    by_teacher = made(tmp_path, form="latex", layout="teachers")
    assert "\n{}[b & " in by_teacher  # a bracket behind \\ would be a length


def test_csv_has_a_line_a_result_with_all_its_keys(tmp_path: Path) -> None:
    assert made(tmp_path, *at_ten(), failures=[failure(ipc=10, student="swin_t")], form="csv") == CSV


def test_the_best_epoch_can_be_shown_and_is_called_so(tmp_path: Path) -> None:
    text = made(tmp_path, *at_ten(), metric="best")
    assert grid_lines(text)[2] == ["ddps", "54.0 ± 3.6"]
    assert "Top-1 accuracy of the best epoch, chosen on the test images, in %" in text


def test_numbers_of_seeds_stand_beside_means_where_they_are_not_the_same(tmp_path: Path) -> None:
    text = made(tmp_path, *seeds(DDPS | {3: 0.53}), *seeds({**CHANCE, 9: 0.44}, set_name="random"), row(set_name="one"))
    assert grid_lines(text)[2:] == [
        ["ddps", "53.0 ± 2.9 (4)"],
        ["− random", "+9.0 [+4.7, +13.3] (3)"],
        ["one", "50.0 (1)"],
        ["− random", "+10.0 (1)"],
        ["random", "44.0 ± 2.9 (4)"],
    ]


def test_layouts_by_ipc_and_by_students(tmp_path: Path) -> None:
    rows = [*seeds(ONE), *at_ten(), *whole(), row(ipc=10, images=100, settings=TEN, student="convnet10")]
    by_ipc = grid_lines(made(tmp_path, *rows, layout="ipc"))
    assert by_ipc[0] == ["IPC", "ddps", "random", "whole"]
    assert by_ipc[2:5] == [
        ["1", "32.0 ± 2.0", "–", "80.0 ± 0.0"],
        ["10", "53.0 ± 3.6", "44.0 ± 3.6", "80.0 ± 0.0"],
        ["− random", "+9.0 [+4.7, +13.3]", "", ""],
    ]
    text = made(tmp_path, layout="students")
    assert "**10 classes, IPC 10, teacher resnet18, protocol rded**" in text
    ten = grid_lines(text.partition("IPC 10, ")[2])
    assert ten[0] == ["Set", "convnet3", "convnet10"]
    assert ten[2] == ["ddps", "53.0 ± 3.6 (3)", "50.0 (1)"]


def test_layout_by_teachers_is_the_papers_cross_architecture_table(tmp_path: Path) -> None:
    rows = [
        row(
            teacher=teacher, student=student, accuracy_last=value, settings=f'{{"classes": 10, "teacher": "{teacher}"}}'
        )
        for teacher, student, value in [
            ("resnet101", "resnet18", 0.501),
            ("resnet18", "resnet18", 0.594),
            ("resnet18", "swin_t", 0.621),
        ]
    ]
    text = made(tmp_path, *rows, layout="teachers")
    assert "**10 classes, set ddps, IPC 1, protocol rded**" in text
    assert grid_lines(text)[0] == ["Teacher", "resnet18", "swin_t"]
    assert grid_lines(text)[2:] == [["resnet18", "59.4", "62.1"], ["resnet101", "50.1", "–"]]
    assert "teacher:" not in text  # that another teacher is another one needs no note


def test_layout_by_bytes_goes_from_small_to_large(tmp_path: Path) -> None:
    rows = [*seeds(ONE, set_bytes=150_000), *at_ten(), *whole(set_bytes=3 * 10**9), row(set_name="a", set_bytes=999)]
    assert grid_lines(made(tmp_path, *rows, layout="bytes"))[2:] == [
        ["a", "1", "10", "999 B", "50.0 (1)"],
        ["ddps", "1", "10", "150.0 kB", "32.0 ± 2.0 (3)"],
        ["ddps", "10", "100", "2.0 MB", "53.0 ± 3.6 (3)"],
        ["", "− random", "", "", "+9.0 [+4.7, +13.3] (3)"],
        ["whole", "all", "9,000", "3.0 GB", "80.0 ± 0.0 (3)"],
        ["random", "10", "100", "–", "44.0 ± 3.6 (3)"],
    ]


def test_stored_labels_count_into_the_size(tmp_path: Path) -> None:
    stored = '{"classes": 10, "batch": 10, "labels": {"logits": "float16", "top": null}}'
    rows = [
        *seeds(ONE, set_bytes=150_000, settings=stored, label_bytes=40_000_000),
        *at_ten(),
        *whole(set_bytes=3 * 10**9, protocol="hard"),
    ]
    text = made(tmp_path, *rows, layout="bytes")
    without, with_labels = text.split("protocol rded")  # protocols are in alphabetical order
    assert grid_lines(with_labels)[0] == ["Set", "IPC", "Images", "Size", "Labels", "Total", "convnet3"]
    assert [line[:6] for line in grid_lines(with_labels)[2:4]] == [
        ["ddps", "10", "100", "2.0 MB", "–", "2.0 MB"],
        ["", "− random", "", "", "", ""],
    ]
    assert grid_lines(with_labels)[4] == ["ddps", "1", "10", "150.0 kB", "40.0 MB", "40.1 MB", "32.0 ± 2.0"]
    assert grid_lines(without)[0] == ["Set", "IPC", "Images", "Size", "convnet3"]
    lines = list(csv.DictReader(io.StringIO(made(tmp_path, form="csv"))))
    assert {(line["ipc"], line["bytes"], line["label_bytes"], line["total_bytes"]) for line in lines} >= {
        ("1", "150000", "40000000", "40150000"),
        ("10", "2000000", "", "2000000"),
    }
    assert "images and labels" in accuracy.table(Run(str(tmp_path / "run")))[0]


def test_results_of_other_settings_are_other_rows_with_a_letter(tmp_path: Path) -> None:
    settings = '{"classes": 10, "batch": 50, "validations": [90, 100]}'
    text = made(
        tmp_path, *at_ten(), *seeds(dict.fromkeys(range(3), 0.9), ipc=10, images=100, settings=settings, epochs=100)
    )
    assert grid_lines(text)[2:] == [
        ["ddps [a]", "90.0 ± 0.0"],
        ["ddps [b]", "53.0 ± 3.6"],
        ["− random", "+9.0 [+4.7, +13.3]"],
        ["random [b]", "44.0 ± 3.6"],
    ]
    assert "- [a] epochs 100.\n- [b] epochs 300.\n" in text
    assert "- Not compared, since the random set has other settings, " in text
    assert "several of its name: ddps [a]." in text


def test_rows_from_before_protocols_are_rdeds(tmp_path: Path) -> None:
    earlier = [each | dict.fromkeys(("protocol", "set_digest"), None) for each in seeds({0: 0.5, 1: 0.52})]
    text = made(tmp_path, *earlier, *seeds({2: 0.57}, set_digest="abc"))
    assert "protocol rded" in text
    assert grid_lines(text)[2] == ["ddps", "53.0 ± 3.6"]


def test_a_set_that_has_changed_under_its_name_is_another_row(tmp_path: Path) -> None:
    text = made(tmp_path, row(set_digest="old", accuracy_last=0.4), row(set_digest="new", seed=1, accuracy_last=0.6))
    assert grid_lines(text)[2:] == [["ddps [a]", "60.0"], ["ddps [b]", "40.0"]]
    assert "[a] set_digest new." in text
    beside = [row(set_digest="of 10", ipc=10, accuracy_last=0.7), row(set_digest="other", set_name="random", seed=5)]
    text = made(tmp_path / "more", row(set_digest="old", accuracy_last=0.4), row(set_digest="new", seed=1), *beside)
    assert grid_lines(text)[2:] == [
        ["ddps", "–", "70.0"],
        ["ddps [a]", "50.0", "–"],
        ["ddps [b]", "40.0", "–"],
        ["random", "50.0", "–"],
    ]


def test_several_runs_stand_side_by_side_and_classes_apart(tmp_path: Path) -> None:
    nette = run_with(tmp_path / "nette", *at_ten(), failures=[failure(ipc=7)])
    woof = run_with(tmp_path / "woof", *at_ten(class_digest="dogs"), row(class_digest="two", settings='{"classes": 2}'))
    text = table.made([woof.uri, nette.uri], "sets", "last", "markdown")
    assert grid_lines(text)[0] == ["Set", "woof, 10 classes, IPC 10", "woof, 2 classes, IPC 1", "nette, IPC 10"]
    assert "- Not trained: nette, set ddps, IPC 7" in text
    alone = table.made([woof.uri], "sets", "last", "markdown")
    titles = [line for line in alone.splitlines() if line.startswith("**")]
    assert [title[2:].partition(",")[0] for title in titles] == ["10 classes", "2 classes"]


def test_classes_of_the_same_number_are_told_apart(tmp_path: Path) -> None:
    text = made(tmp_path, row(class_digest="dogs"), row(class_digest="cats", seed=1), row(class_digest=None, seed=2))
    assert {line.partition(",")[0] for line in text.splitlines() if line.startswith("**")} == {
        "**10 classes (dogs)",
        "**10 classes (cats)",
        "**10 classes (which ones is not recorded)",
    }


def test_a_failure_that_has_a_result_since_is_not_named(tmp_path: Path) -> None:
    failures = [failure(seed=0), failure(seed=1)]
    text = made(tmp_path, row(seed=0), failures=failures)
    assert [line for line in text.splitlines() if "Not trained" in line] == [
        "- Not trained: set ddps, IPC 1, student convnet3, teacher resnet18, protocol rded, seed 1: out of memory"
    ]


def test_scores_of_dd_ranking_are_a_table_of_their_own(tmp_path: Path) -> None:
    hard = {"protocol": "hard", "teacher": "none", "accuracy_teacher": 0.0}
    rows = [row(accuracy_last=0.6), row(accuracy_last=0.5, set_name="random"), row(accuracy_last=0.3, **hard)]
    text = made(tmp_path, *rows, row(accuracy_last=0.7, set_name="whole", ipc=900, **hard))
    scores = grid_lines(text.partition("**DD-Ranking**")[2])
    assert scores[0] == ["Data set", "Set", "IPC", "Student", "Teacher", "Protocol", "HLR", "IOR", "LRS"]
    assert scores[2:] == [["10 classes", "ddps", "1", "convnet3", "resnet18", "rded", "40.0", "10.0", "0.210"]]
    (line,) = [each for each in csv.DictReader(io.StringIO(made(tmp_path, form="csv"))) if each["lrs"]]
    assert (line["hlr"], line["ior"], line["lrs"], line["ars"]) == ("40.0", "10.0", "0.209678", "")


def test_the_command_prints_or_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path / "run", *seeds(ONE))
    assert cli.main(["table", run.uri]) == 0
    printed = capsys.readouterr().out
    assert "| ddps | 32.0 ± 2.0 |" in printed
    out = tmp_path / "new" / "table.md"
    assert cli.main(["table", run.uri, "--out", str(out)]) == 0
    assert out.read_text() == printed
    assert cli.main(["table", run.uri, "--format", "csv", "--layout", "bytes", "--metric", "best"]) == 0
    assert ",best,33.0,2.0,3," in capsys.readouterr().out


def test_a_run_without_results_or_named_twice_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, empty = run_with(tmp_path / "run", row()), tmp_path / "empty"
    assert cli.main(["table", run.uri, str(empty)]) == 2
    assert capsys.readouterr().err == f"ddps: {empty} has no results: run `ddps evaluate` first\n"
    assert cli.main(["table", run.uri, f"{run.uri}/"]) == 2
    assert capsys.readouterr().err == f"ddps: {run.uri} is named twice\n"
    assert not empty.exists()
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "table.md"):
        assert cli.main(["table", run.uri, "--out", str(place)]) == 2
        assert capsys.readouterr().err.startswith(f"ddps: --out {place} cannot be written: ")


def test_the_command_line_knows_every_layout_metric_and_format() -> None:
    choices = {flag: set(said["choices"]) for flag, said in cli.TABLE.options if "choices" in said}
    assert choices == {
        "--layout": set(layouts.LAYOUTS),
        "--metric": set(cells.METRICS),
        "--format": {*formats.DRAWN, "csv"},
    }
