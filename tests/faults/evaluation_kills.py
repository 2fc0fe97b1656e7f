"""Kills at seeded random moments while students are trained, and what must hold afterwards.

    python -m tests.faults.evaluation_kills --kills 20 --seed 1

trains a small grid undisturbed, then once more while workers, drivers and nodes are killed; prints what each kill cost.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import torch
import yaml

from ddps_ray import manifest
from ddps_ray.config import Recipe
from ddps_ray.pipeline import cells
from ddps_ray.pipeline.cells import Cell
from ddps_ray.quickstart.objects import write_image_folder
from tests.faults import nodes, noting
from tests.faults.nodes import ENVIRONMENT, ROOT, Cluster, cluster, kill, until
from tests.faults.noting import Note
from tests.students import inputs

KINDS = ("worker", "driver", "node")
ACTOR = "RayTrainWorker"
SUBSET = ["fish", "gem"]
_MEASURED = {"seconds", "memory"}
"""Columns that no two trainings have in common."""


@dataclass(frozen=True)
class Kill:
    """What was killed, and what was there then.

    Attributes:
        kind: What was killed.
        when: Seconds since the epoch.
        part: Share of the grid's epochs that had been done.
        rows: Each finished student's row: the file as it was.
        states: The epoch from which each student in training could go on.
    """

    kind: str
    when: float
    part: float
    rows: dict[str, tuple[int, int, bytes]]
    states: dict[str, int]


@dataclass(frozen=True)
class Cut:
    """A training that was cut.

    Attributes:
        cell: Key of the student.
        when: Time of its last epoch before that.
        again: Time of its first epoch afterwards.
        done: Number of epochs that it had finished.
        resumed: Number of epochs after which it went on.
    """

    cell: str
    when: float
    again: float
    done: int
    resumed: int


@dataclass
class Grid:
    """A run directory whose students are to be trained by `ddps evaluate`.

    Attributes:
        folder: Holds run directory, recipe and notes.
        recipe: The recipe.
        kills: What was killed, in order.
        attempts: How often the command has been started.
    """

    folder: Path
    recipe: Recipe
    kills: list[Kill] = field(default_factory=list)
    attempts: int = 0

    def copy(self, name: str) -> "Grid":
        """A copy beside it, with notes of its own."""
        folder = self.folder.with_name(name)
        (folder / "notes").mkdir(parents=True)
        shutil.copytree(self.recipe.run_dir, folder / "run")
        made = Grid(folder, self.recipe.model_copy(update={"run_dir": str(folder / "run")}))
        (folder / "run.yaml").write_text(yaml.safe_dump(made.recipe.model_dump(mode="json")))
        return made

    @property
    def run_dir(self) -> Path:
        """Its run directory."""
        return Path(self.recipe.run_dir)

    def cells(self) -> dict[str, Cell]:
        """Its students, by key."""
        return {cell.key: cell for cell in cells.of(self.recipe)}

    def start(self, there: Cluster, command: str = "evaluate", fatal: str = "") -> subprocess.Popen[bytes]:
        """Starts the command."""
        self.attempts += 1
        log = self._log().open("wb")
        line = [sys.executable, "-m", "ddps_ray.cli", command, "--config", str(self.folder / "run.yaml")]
        own = noting.environment(self.folder / "notes", fatal) | {"RAY_ADDRESS": there.address}
        return subprocess.Popen(line, env=ENVIRONMENT | own, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def finish(self, driver: subprocess.Popen[bytes], code: int = 0) -> str:
        """Waits for the command's end; returns what it said."""
        until(lambda: driver.poll() is not None, "the command's end", pause=0.5)
        assert driver.returncode == code, self.said()[-5000:]
        return self.said()

    def said(self) -> str:
        """What the last attempt has said."""
        return self._log().read_text()

    def notes(self) -> list[Note]:
        """Every epoch that was done."""
        return noting.read(self.folder / "notes")

    def rows(self) -> dict[str, tuple[int, int, bytes]]:
        """The files of the finished students: inode, time of change, content."""
        files = (self.run_dir / "evaluation").glob("[!.]*.parquet")
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    def table(self) -> list[dict[str, object]]:
        """All that is said of the students but how long they took."""
        files = sorted((self.run_dir / "evaluation").glob("[!.]*.parquet"))
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return [{column: value for column, value in row.items() if column not in _MEASURED} for row in rows]

    def quarantine(self) -> list[dict[str, object]]:
        """The images that cannot be used."""
        files = sorted((self.run_dir / "quarantine").glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def failures(self) -> list[str]:
        """Why students could not be trained."""
        files = (self.run_dir / "evaluation" / "failed").glob("*.parquet")
        return [reason for file in files for reason in pq.read_table(file)["reason"].to_pylist()]

    def states(self) -> dict[str, int]:
        """The epoch from which each student in training could go on: what Ray Train's own list names."""
        found = {}
        for listed in (self.run_dir / "checkpoints").glob("evaluate-*/checkpoint_manager_snapshot.json"):
            try:
                latest = json.loads(listed.read_text())["latest_checkpoint_result"]["checkpoint_dir_name"]
                state = torch.load(listed.parent / latest / "state.pt", weights_only=True)
            except (OSError, ValueError, TypeError):  # a later state is taking its place
                continue
            found[state["cell"]] = state["training"]["epochs"]
        return found

    def part(self) -> float:
        """Share of all epochs that have been done, each counted once."""
        wanted = sum(cell.protocol.epochs for cell in self.cells().values())
        return len({(note.cell, note.done) for note in self.notes()}) / wanted

    def cuts(self) -> list[Cut]:
        """Each training that another process went on with."""
        by_cell: dict[str, dict[int, list[Note]]] = {}
        for note in self.notes():
            by_cell.setdefault(note.cell, {}).setdefault(note.pid, []).append(note)
        return [
            Cut(cell, before[-1].when, after[0].when, before[-1].done, after[0].done - 1)
            for cell, processes in by_cell.items()
            for before, after in pairwise(processes.values())
        ]

    def _log(self) -> Path:
        return self.folder / f"attempt-{self.attempts}.log"


def material(folder: Path, epochs: int) -> Grid:
    """A run with a manifest, in which one validation image is broken, and two distilled sets."""
    for _ in write_image_folder(folder / "images", {"train": 12, "val": 6}, seed=0):
        pass
    (folder / "images" / "val" / "gem" / "00000.png").write_bytes(b"no image")
    values = {
        "run_dir": str(folder / "made" / "run"),
        "data": {"root": str(folder / "images")},
        "model": {"path": "quickstart"},
        "distill": {
            "sets": {"typical": {"ipc": [1]}, "chance": {"selector": "random", "ipc": [12], "classes": SUBSET}}
        },
        "teacher": {"weights": "trained", "model": {"arch": "convnet2", "width": 8}, "epochs": 40, "batch": 20},
        "train_on_gpus": False,
        "evaluate": {
            "size": 16,
            "students": [{"arch": "convnet2", "width": 4}, {"arch": "convnet2", "width": 6}],
            "protocols": ["rded", "hard"],
            "seeds": [0, 1],
            "epochs": epochs,
            "checkpoint_minutes": 0.01,
        },
    }
    recipe = Recipe.model_validate(values)
    run = inputs.indexed(Path(recipe.run_dir), folder / "images")
    classes = manifest.classes(run, "train")["class_id"].to_pylist()
    inputs.distilled(run, folder / "images", "typical", 1, sorted(classes), 4, recipe)
    inputs.distilled(run, folder / "images", "chance", 12, SUBSET, 1, recipe)
    return Grid(folder / "made", recipe)


def disturb(grid: Grid, there: Cluster, kinds: list[str], chance: random.Random) -> None:
    """Evaluates while something is killed again and again, at random parts of the work; the end is undisturbed."""
    driver = grid.start(there)
    for moment, kind in zip(sorted(chance.uniform(0.01, 0.95) for _ in kinds), kinds, strict=True):
        _wait(grid, driver, moment)
        time.sleep(chance.uniform(0, 3))  # the random moment
        victim = _training(there, chance) if kind == "worker" else None
        known = grid.rows(), grid.states()  # before it, so that all of this must still be there
        if kind == "driver":
            kill(psutil.Process(driver.pid))
            driver.wait(30)
        elif kind == "node":
            there.lose(chance.choice(there.workers))
        elif victim is not None:
            victim.send_signal(signal.SIGKILL)
        grid.kills.append(Kill(kind, time.time(), grid.part(), *known))
        print(f"{kind} killed at {grid.kills[-1].part:.0%}", flush=True)
        if kind == "driver":
            driver = grid.start(there)
        elif kind == "node":
            there.add_worker()
    grid.finish(driver)


def _wait(grid: Grid, driver: subprocess.Popen[bytes], part: float) -> None:
    """Waits until a part of the work is done, and something of it after the last kill."""
    since = grid.kills[-1].when if grid.kills else 0.0

    def there() -> bool:
        return grid.part() >= part and any(note.when > since for note in grid.notes())

    until(lambda: there() or driver.poll() is not None, f"{part:.0%} of the work", pause=0.2)
    assert driver.poll() is None, grid.said()[-5000:]


def _training(there: Cluster, chance: random.Random) -> psutil.Process:
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [process for node in there.workers for process in node.scorers(ACTOR)]
        return bool(found)

    until(look, "a worker")
    return chance.choice(found)


def check(grid: Grid, undisturbed: Grid) -> None:
    """Asserts what must hold after any kill."""
    every, after = grid.cells(), grid.rows()
    assert set(after) == {cell.file for cell in every.values()}, "each student has one row"
    for each in grid.kills:
        changed = {name for name, was in each.rows.items() if after[name] != was}
        assert not changed, f"rows of finished students were written again: {changed}"
    assert grid.table() == undisturbed.table()
    assert grid.quarantine() == undisturbed.quarantine()
    assert not grid.failures()
    left = list((grid.run_dir / "checkpoints").glob("evaluate-*"))
    assert not left, f"states of finished students are left: {left}"
    done = {(note.cell, note.done) for note in grid.notes()}
    assert done == {(key, number + 1) for key, cell in every.items() for number in range(cell.protocol.epochs)}
    for cut in grid.cuts():
        known = [each.states[cut.cell] for each in grid.kills if each.when < cut.again and cut.cell in each.states]
        assert cut.resumed >= max(known, default=0), f"{cut} went on before a state that was there"


def costs(grid: Grid) -> Iterator[str]:
    """What each kill cost, as lines of a Markdown table, and the sum."""
    yield "| # | killed | epochs done | students finished | cut: gone on after | epochs done twice |"
    yield "|---|---|---|---|---|---|"
    left, total = grid.cuts(), 0
    for number, each in enumerate(grid.kills, 1):
        mine = [cut for cut in left if cut.when <= each.when]
        left = [cut for cut in left if cut not in mine]
        twice = sum(cut.done - cut.resumed for cut in mine)
        said = ", ".join(f"{cut.done}: {cut.resumed}" for cut in mine) or "–"
        total += twice
        yield f"| {number} | {each.kind} | {each.part:.1%} | {len(each.rows)} | {said} | {twice} |"
    notes = grid.notes()
    once = len({(note.cell, note.done) for note in notes})
    yield f"{len(notes)} epochs for {once}: {total} of them twice after kills, {len(notes) - once} in all"


def campaign(kills: int, epochs: int, seed: int, folder: Path) -> Iterator[str]:
    """Undisturbed, disturbed, and with a student that always fails; yields what is to be printed."""
    chance = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    chance.shuffle(kinds)
    begun = time.monotonic()
    made = material(folder, epochs)
    with cluster(2, "--num-cpus=0", cpus=1) as there:  # so that each training has one thread, however many nodes
        made = made.copy("taught")
        made.finish(made.start(there, "teacher"))
        undisturbed = made.copy("undisturbed")
        undisturbed.finish(undisturbed.start(there))
        check(undisturbed, undisturbed)
        yield f"undisturbed: {len(undisturbed.cells())} students of {epochs} epochs, {time.monotonic() - begun:.0f} s"
        disturbed = made.copy("disturbed")
        disturb(disturbed, there, kinds, chance)
        yield from costs(disturbed)
        check(disturbed, undisturbed)
        yield f"{kills} kills, {disturbed.attempts} commands, {time.monotonic() - begun:.0f} s: table as undisturbed"
        yield from _fatal(made.copy("fatal"), undisturbed, there, chance)


def _fatal(grid: Grid, undisturbed: Grid, there: Cluster, chance: random.Random) -> Iterator[str]:
    """One student whose process always dies: the others are whole; without that, the same command trains it."""
    victim = chance.choice(list(grid.cells().values()))
    grid.finish(grid.start(there, fatal=victim.key), code=2)
    whole = set(grid.rows())
    assert whole == set(undisturbed.rows()) - {victim.file}
    (reason,) = grid.failures()
    yield f"exit code 2 after {grid.attempts} command, {len(whole)} students whole, one failed: {reason}"
    grid.finish(grid.start(there))
    check(grid, undisturbed)
    yield "run again without that: table as undisturbed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    nodes.PATIENCE = 3600  # so many kills take long
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        for line in campaign(args.kills, args.epochs, args.seed, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
