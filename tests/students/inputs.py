"""A small run directory with the manifest and distilled sets that the tests start from."""

from pathlib import Path

from PIL import Image

from ddps_ray import manifest, schemas, storage
from ddps_ray.storage import Run


def indexed(folder: Path, scenes: Path) -> Run:
    """A run whose manifest lists the scenes."""
    run = Run(str(folder))
    run.claim("index", {})
    classes = sorted(path.name for path in (scenes / "train").iterdir())
    for split in ("train", "val"):
        files = sorted((scenes / split).glob("*/*.png"))
        columns = {
            "image_id": [file.relative_to(scenes).as_posix() for file in files],
            "uri": [str(file) for file in files],
            "class_id": [file.parent.name for file in files],
            "class_text": [file.parent.name for file in files],
            "label": [classes.index(file.parent.name) for file in files],
            "split": [split] * len(files),
        }
        manifest.write(run, split, schemas.table(columns, schemas.MANIFEST))
    run.finish("index", {"splits": {"train": 120, "val": 60}, "layout": "imagefolder"})
    return run


def distilled(run: Run, scenes: Path, name: str, ipc: int, classes: list[str], slots: int) -> str:
    """A distilled set of the first training images: whole, or four to a mosaic; returns its folder."""
    folder = run.path("distilled", name, f"ipc={ipc}")
    stage = f"distill/{name}/ipc={ipc}"
    run.claim(stage, {})
    rows = []
    for label, class_id in enumerate(classes):
        for number in range(ipc):
            file = f"train/{class_id}/{number:05d}.png"
            target = Path(folder) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            images = [scenes / "train" / class_id / f"{(number + slot) % 12:05d}.png" for slot in range(slots)]
            _compose(images).save(target)
            rows += [_row(file, slot, image, class_id, label) for slot, image in enumerate(images)]
    columns = {column: [row[column] for row in rows] for column in schemas.DISTILLED.names}
    storage.write_table(storage.join(folder, "metadata.parquet"), schemas.table(columns, schemas.DISTILLED))
    run.finish(stage, {"images": ipc * len(classes)})
    return folder


def _compose(files: list[Path]) -> Image.Image:
    if len(files) == 1:
        return Image.open(files[0])
    canvas = Image.new("RGB", (64, 64))
    for slot, file in enumerate(files):
        canvas.paste(Image.open(file).resize((32, 32)), (32 * (slot % 2), 32 * (slot // 2)))
    return canvas


def _row(file: str, slot: int, image: Path, class_id: str, label: int) -> dict[str, object]:
    whole = {"left": 0, "top": 0, "width": 64, "height": 64, "scaled_width": 64, "scaled_height": 64}
    chosen = {
        "typicality": 0.0,
        "cluster": None,
        "cluster_typicality": None,
        "rank": None,
        "reason": "the first of its class",
    }
    named = {"file": file, "slot": slot, "image_id": f"train/{class_id}/{image.name}"}
    return named | {"class_id": class_id, "label": label} | whole | chosen
