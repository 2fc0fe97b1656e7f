"""Getting a checkpoint onto this machine from a folder, a store or the Hub: once, and only what is loaded."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

from pyarrow import fs

from ddps_ray import locks, storage, uris
from ddps_ray.config import Model
from ddps_ray.diffusion import hub, layout
from ddps_ray.errors import UserError, first_line

BUNDLED = "quickstart"
PRETRAINED = "pretrained"
MODEL_FOLDER = "pretrain/model"
"""Where `ddps pretrain` puts its model inside a run directory."""

_PATHS = ("/", "./", "../", "~")
"""What a path begins with, and no name of a model of the Hub."""
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_CACHE = "~/.cache/ddps_ray/models"
_THREADS = 8


def locate(model: Model, pretrained: str, weights: bool = True) -> Path:
    """Finds the folder of a checkpoint on this machine, fetched first if it is at a URI or on the Hub.

    What was fetched before is not fetched again: from a store, as long as the files there are the same; from the Hub,
    where `model.revision` is a commit, without asking it.

    Args:
        model: The recipe's section.
        pretrained: Folder or URI that `model.path: pretrained` stands for.
        weights: False to fetch and check the configuration alone.

    Raises:
        UserError: There is no such folder, or it is not a Stable Diffusion, or one of an unsupported kind.
    """
    place = _place(model, pretrained)
    if place == model.path:
        _check_path(place)
    if uris.is_uri(place):
        folder = _from_store(place, weights)
    elif Path(place).expanduser().is_dir():
        folder = Path(place).expanduser()
    elif place != model.path:
        raise UserError(f"model.path: {model.path}: there is no model in {place}")
    else:
        folder = _from_hub(model, weights)
    layout.check_layout(folder, weights)
    return folder


def pin(model: Model) -> Model:
    """Fixes the revision of a Hub model to a commit, so that all workers load the same; other models stay as they are.

    Without a network, or with HF_HUB_OFFLINE, it is the commit that is in this machine's cache.

    Args:
        model: The recipe's section; `revision` may be a branch, a tag, a commit or None.

    Raises:
        UserError: The Hub has no such model or revision, or cannot be asked and it is not in the cache.
    """
    place = _place(model, "")
    if place != model.path or uris.is_uri(place) or Path(place).expanduser().is_dir() or hub.is_commit(model.revision):
        return model
    _check_path(place)
    folder = hub.snapshot(model, [layout.INDEX])
    return model.model_copy(update={"revision": folder.name})


def _check_path(place: str) -> None:
    """Refuses what is meant as a path, and is not that of a folder.

    Raises:
        UserError: It is a single file that has all parts, as other programs take it, or is not there.
    """
    if Path(place).expanduser().is_dir():
        return
    if place.lower().endswith(_SINGLE_FILES) or Path(place).expanduser().is_file():
        raise UserError(
            f"model.path: {place} is a single file, and a folder in the diffusers layout is needed: diffusers makes "
            "one with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if place.startswith(_PATHS):
        raise UserError(f"model.path: there is no folder {place}")


def _place(model: Model, pretrained: str) -> str:
    """The folder, URI or Hub name that a path of the recipe stands for."""
    names = {BUNDLED: str(resources.files("ddps_ray.quickstart") / "weights"), PRETRAINED: pretrained}
    return names.get(model.path, model.path)


def _from_store(uri: str, weights: bool) -> Path:
    """Copies a checkpoint from a store, once a machine for each state that it has there."""
    source, top = storage.open_uri(uri)
    names = {file.path.removeprefix(top).lstrip("/"): file for file in storage.list_files(uri)}
    files = {name: file for name, file in names.items() if layout.is_loaded(name, weights)}
    if layout.INDEX not in files:
        raise UserError(
            f"model.path: {uri} has no {layout.INDEX}" if names else f"model.path: {uri} is not there, or empty"
        )
    layout.check_kind(storage.read_bytes(storage.join(uri, layout.INDEX)), uri)
    state = repr([(file.path, file.size, file.mtime_ns) for file in files.values()])
    target = Path(_CACHE).expanduser() / hashlib.sha256(state.encode()).hexdigest()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.alone(target.with_suffix(".lock"), "fetches the same model"):
        if not target.is_dir():
            part = target.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a process that was killed while it copied
            try:
                _copy(source, files, part)
            except OSError as error:
                raise UserError(f"model.path: {uri} cannot be copied: {first_line(error)}") from error
            part.rename(target)
    return target


def _copy(source: fs.FileSystem, files: dict[str, fs.FileInfo], folder: Path) -> None:
    def one(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        here = fs.LocalFileSystem()
        fs.copy_files(files[name].path, str(folder / name), source_filesystem=source, destination_filesystem=here)
        if (size := (folder / name).stat().st_size) != files[name].size:
            raise OSError(f"{name} has {size} bytes here, {files[name].size} there")

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(one, files))


def _from_hub(model: Model, weights: bool) -> Path:
    """Fetches a snapshot; one that is complete here, of a known commit, without a word to the Hub."""
    if hub.is_commit(model.revision):
        try:
            folder = hub.snapshot(model, layout.patterns(weights), here=True)
            layout.check_layout(folder, weights)
            return folder
        except UserError:
            pass  # not here, or not all of it
    index = hub.snapshot(model, [layout.INDEX]) / layout.INDEX
    if not index.is_file():
        raise UserError(f"model.path: {model.path} is not a diffusers Stable Diffusion: it has no {layout.INDEX}")
    layout.check_kind(index.read_bytes(), model.path)
    return hub.snapshot(model, layout.patterns(weights))
