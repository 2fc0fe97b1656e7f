"""Kills at seeded random moments while a run is scored, and what must hold afterwards.

    python -m tests.faults.kills --kind driver --moments 20 --images 800 --seed 0

prints how many rows were scored twice; it is what the fault tests do a few times, done often.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import ray
import torch
import yaml

from ddps_ray import config
from ddps_ray.config import Pretrain
from ddps_ray.diffusion.saving import save
from ddps_ray.diffusion.small import build
from ddps_ray.inspection import verify
from ddps_ray.pipeline import index
from ddps_ray.quickstart.objects import write_image_folder
from ddps_ray.quickstart.shapes import CLASSES
from tests.faults import nodes
from tests.faults.driver import NOTES
from tests.faults.nodes import ENVIRONMENT, ROOT, Cluster, cluster, kill, until

ACTOR = "NotingActor"
ROWS_PER_SHARD = 16
UNDISTURBED = "undisturbed"


@dataclass
class Scene:
    """A run directory with an index, and a driver that scores it, again after each kill.

    Attributes:
        folder: Holds recipe, run directory and notes.
        safe: Ids in whole shards before each attempt.
        begun: When each attempt began, in seconds since the epoch.
    """

    folder: Path
    safe: list[set[str]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """Its run directory."""
        return self.folder / "run"

    def start(self, address: str) -> subprocess.Popen[bytes]:
        """Starts a driver."""
        self.safe.append({image_id for ids in self.shards().values() for image_id in ids})
        self.begun.append(time.time())
        log = (self.folder / f"driver-{len(self.begun)}.log").open("wb")
        command = [sys.executable, "-m", "tests.faults.driver", str(self.folder / "recipe.yaml")]
        environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)

    def finish(self, driver: subprocess.Popen[bytes]) -> None:
        """Waits for a driver that must succeed."""
        until(lambda: driver.poll() is not None, "the driver's end")
        log = (self.folder / f"driver-{len(self.begun)}.log").read_text()
        assert driver.returncode == 0, log[-5000:]

    def notes(self) -> list[tuple[float, str]]:
        """When which image was scored, every time that it was."""
        lines = [line for file in (self.folder / NOTES).iterdir() for line in file.read_text().splitlines()]
        return [(float(time), image_id) for time, _, image_id in (line.partition(" ") for line in lines)]

    def shards(self) -> dict[Path, list[str]]:
        """The ids of each shard that is whole."""
        found = {}
        for file in (self.run_dir / "scores").glob("[!.]*.parquet"):
            try:
                found[file] = ds.dataset(file).to_table(columns=["image_id"])["image_id"].to_pylist()
            except (pa.ArrowInvalid, OSError):
                continue
        return found


def scene(folder: Path, images: Path, model: Path) -> Scene:
    """Indexes images into a new scene for two actors; a Ray must be there, or is started."""
    values = {
        "run_dir": str(folder / "run"),
        "data": {"root": str(images), "val": None},
        "model": {"path": str(model)},
        "score": {
            "size": 64,
            "patch": 32,
            "pairs": 30,
            "judge": "skip",
            "batch": 4,
            "rows_per_shard": ROWS_PER_SHARD,
            "actors": 2,
        },
    }
    (folder / NOTES).mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    index.run(config.load(folder / "recipe.yaml"))
    return Scene(folder)


def scorers_killed(made: Scene, there: Cluster, chance: random.Random, moments: int) -> None:
    """One job, in which scorers are killed; it must go on by itself."""
    driver = made.start(there.address)
    for _ in range(moments):
        _wait_for_more(made)
        time.sleep(chance.uniform(0, 2))  # the random moment
        chance.choice([process for node in there.workers for process in node.scorers(ACTOR)]).send_signal(SIGKILL)
    made.finish(driver)


def workers_killed(made: Scene, there: Cluster, chance: random.Random, moments: int) -> None:
    """One job, in which worker nodes are lost and others join; it must go on by itself."""
    driver = made.start(there.address)
    for _ in range(moments):
        _wait_for_more(made)
        time.sleep(chance.uniform(0, 3))  # the random moment
        victim = chance.choice([worker for worker in there.workers if worker.scorers(ACTOR)])
        there.add_worker()
        there.lose(victim)
    made.finish(driver)


def drivers_killed(made: Scene, there: Cluster, chance: random.Random, moments: int) -> None:
    """Jobs whose drivers are killed, each after it has scored something."""
    for _ in range(moments):
        driver = made.start(there.address)
        _wait_for_work(made, driver)
        time.sleep(chance.uniform(0, 3))
        kill(psutil.Process(driver.pid))
    made.finish(made.start(there.address))


def drivers_killed_in_a_write(made: Scene, there: Cluster, chance: random.Random, moments: int) -> None:
    """Jobs whose drivers are killed while a shard is pending: written in part, or not yet committed."""
    for _ in range(moments):
        driver = made.start(there.address)
        _wait_for_work(made, driver)
        wanted = chance.randrange(3)  # not always the first one
        seen: set[str] = set()

        def pending(seen: set[str] = seen, wanted: int = wanted) -> bool:
            seen.update(file.name for file in made.run_dir.glob("checkpoints/score-*/*.pending.parquet"))
            return len(seen) > wanted

        until(pending, "a shard being written", pause=0.01)
        kill(psutil.Process(driver.pid))
    made.finish(made.start(there.address))


def heads_killed(made: Scene, there: Cluster, chance: random.Random, moments: int) -> None:
    """Clusters that are lost whole, driver and all; the next one goes on."""
    for _ in range(moments):
        with cluster(workers=2) as lost:
            driver = made.start(lost.address)
            _wait_for_work(made, driver)
            time.sleep(chance.uniform(0, 3))
            lost.head.kill()
            kill(psutil.Process(driver.pid))
    made.finish(made.start(there.address))


KINDS = {
    "scorer": scorers_killed,
    "worker": workers_killed,
    "driver": drivers_killed,
    "write": drivers_killed_in_a_write,
    "head": heads_killed,
}


def check(made: Scene, undisturbed: Path) -> dict[str, int]:
    """Asserts what must hold after any kill; counts what it cost.

    Args:
        made: A finished scene.
        undisturbed: Run directory of the same images, scored without a kill.
    """
    assert verify.run(str(made.run_dir)) == verify.SOUND
    mine, other = (_rows(folder) for folder in (made.run_dir, undisturbed))
    assert mine["image_id"].to_pylist() == other["image_id"].to_pylist()
    for column in ("typicality", "typicality_image", "left", "top"):
        np.testing.assert_allclose(mine[column].to_numpy(), other[column].to_numpy(), atol=1e-5)
    mine_dift, other_dift = (np.array(rows["dift"].to_pylist(), np.float32) for rows in (mine, other))
    np.testing.assert_allclose(mine_dift, other_dift, atol=1e-3)  # float16 on disk
    notes = made.notes()
    for number, (begun, safe) in enumerate(zip(made.begun, made.safe, strict=True)):
        until_then = made.begun[number + 1] if number + 1 < len(made.begun) else float("inf")
        again = {image_id for when, image_id in notes if begun <= when < until_then} & safe
        assert not again, f"attempt {number + 1} scored {len(again)} images that were safe"
    return {"attempts": len(made.begun), "rows": len(mine), "scored": len(notes), "twice": len(notes) - len(mine)}


def _rows(run_dir: Path) -> pa.Table:
    columns = ["image_id", "typicality", "typicality_image", "left", "top", "dift"]
    return ds.dataset(run_dir / "scores", format="parquet").to_table(columns).sort_by("image_id")


def _wait_for_more(made: Scene) -> None:
    before = len(made.notes())
    until(lambda: len(made.notes()) > before, "more scores")


def _wait_for_work(made: Scene, driver: subprocess.Popen[bytes]) -> None:
    begun = made.begun[-1]
    until(lambda: any(when > begun for when, _ in made.notes()) or driver.poll() is not None, "the first scores")
    assert driver.poll() is None, (made.folder / f"driver-{len(made.begun)}.log").read_text()[-5000:]


def material(folder: Path, images: int) -> tuple[Path, Path]:
    """Draws images and makes an untrained model."""
    for _ in write_image_folder(folder / "images", {"train": images // 10}, seed=0):
        pass
    sizes = Pretrain(vae_channels=(8, 8, 8), unet_channels=(8, 16), text_width=16, text_layers=1)
    torch.manual_seed(0)
    save(build(sizes, ["An image of .", *(f"An image of {name}" for name in CLASSES)]), folder / "model")
    return folder / "images", folder / "model"


def campaign(kinds: list[str], moments: int, images: int, seed: int, folder: Path) -> Iterator[dict[str, object]]:
    """Scores once undisturbed and once with kills of each kind; yields the costs of each."""
    data, model = material(folder, images)
    for name in (UNDISTURBED, *kinds):
        made = scene(folder / name, data, model)
        ray.shutdown()  # that of the index
        begun = time.monotonic()
        with cluster(workers=2) as there:
            if name == UNDISTURBED:
                made.finish(made.start(there.address))
            else:
                KINDS[name](made, there, random.Random(seed), moments)
        cost = check(made, folder / UNDISTURBED / "run")
        yield {"kind": name, **cost, "seconds": round(time.monotonic() - begun)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    nodes.PATIENCE = 1800  # so many kills take long
    with tempfile.TemporaryDirectory() as folder:
        for cost in campaign(args.kind, args.moments, args.images, args.seed, Path(folder)):
            print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main()
