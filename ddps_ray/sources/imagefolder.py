"""The ImageFolder layout, `<root>/<split>/<class>/**/<image>`, at any path or URI."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from ddps_ray import storage
from ddps_ray.errors import UserError
from ddps_ray.sources import advice, classes, folders, listing, locators
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.sources.listing import PLAIN, Classes, Listing, Options

_THREADS = 32
_OF_IMAGES = frozenset(("images", "image", "imgs", "img", "pictures", "photos", "jpg", "jpeg", "png"))
"""What a class's one inner folder is called where it is no class."""


def recognises(root: str, splits: Sequence[str]) -> bool:
    """Whether the training split's folder has class folders."""
    return splits[0] in folders.folders(root) and bool(folders.folders(storage.join(root, splits[0])))


def has_images(root: str, split: str) -> bool:
    """Whether the first class folder of a split, or a folder in it, has an image."""
    folder = top(root, split)
    first = storage.join(folder, folders.folders(folder)[0])
    return any(map(folders.is_image, folders.tree(first).files))


def list_images(
    root: str,
    splits: Sequence[str],
    names: Mapping[str, str] | None = None,
    ground_truth: str | None = None,
    options: Options = PLAIN,
) -> Listing:
    """Lists a data set; the label of a class is its index among the sorted class ids of the first split.

    Args:
        root: Folder or URI of the data set, absolute, so that every worker can read the URIs of the rows.
        splits: Names of the split folders, the training split first.
        names: The user's names of the classes; see `classes.names`.
        ground_truth: Not used.
        options: Which folders are classes.

    Raises:
        UserError: A folder is absent or holds no images, a class has no name, a later split has a class that the first
            one lacks, or two folders would be one class.
    """
    advice.check_splits(root, splits)
    left = Leftovers()
    if options.class_folders == "leaf":
        return _list_leaves(root, splits, names, left)
    ids = {split: class_ids(root, split) for split in splits}
    known = classes.ordered(ids[splits[0]], names)
    listed = {split: list_split(root, split, ids[split], known, left) for split in splits}
    notes = (*left.notes(), *_deeper(root, splits[0], listed[splits[0]]))
    return Listing(listed, known.texts, left.count, notes=notes)


def top(root: str, split: str) -> str:
    """The folder of a split's class folders: its own, or one of the same name that is all there is in it."""
    folder = storage.join(root, split)
    here = folders.look(folder)
    if here.folders == (split,) and not here.files:
        inner = folders.look(storage.join(folder, split))
        if inner.folders and not any(map(folders.is_image, inner.files)):
            return storage.join(folder, split)
    return folder


def class_ids(root: str, split: str) -> list[str]:
    """Returns, sorted, the names of a split's class folders.

    Raises:
        UserError: There are none.
    """
    folder = top(root, split)
    found = folders.look(folder)
    if not found.folders:
        raise UserError(f"data: {folder} has no class folders{advice.flat(folder, found.files)}")
    return list(found.folders)


def list_split(root: str, split: str, ids: Sequence[str], known: Classes, left: Leftovers, inner: str = "") -> pa.Table:
    """Lists the images of a split's class folders, and below them.

    Args:
        root: Data set.
        split: Split.
        ids: Names of its class folders, sorted.
        known: The classes.
        left: Takes what else lies there.
        inner: Folder inside a class folder that has the images, where it is there, and is not a part of their ids.

    Returns:
        The rows, ordered by class and id.

    Raises:
        UserError: A class is not known, or has no images.
    """
    folder = top(root, split)
    _leave(folders.look(folder), split, left)

    def images(class_id: str) -> tuple[str, list[str], Leftovers]:
        place, called, others = storage.join(folder, class_id), f"{split}/{class_id}", Leftovers()
        if class_id not in known.labels:
            raise UserError(f"data: {place} is of a class that the training split does not have")
        if inner and _is_inside(place, inner):
            place, called = storage.join(place, inner), f"{called}/{inner}"
        return place, folders.images(place, called, others), others

    tables = []
    with ThreadPoolExecutor(_THREADS) as threads:  # a store answers slowly, listing by listing
        for class_id, (place, names, others) in zip(ids, threads.map(images, ids), strict=True):
            left.add(others)
            tables.append(folders.rows(split, place, dict.fromkeys(names, class_id), known))
    return pa.concat_tables(tables)


def _is_inside(folder: str, inner: str) -> bool:
    """Says whether a class folder has its images in a folder inside."""
    here = folders.look(folder)
    return inner in here.folders and not any(map(folders.is_image, here.files))


def _leave(here: folders.Entries, split: str, left: Leftovers) -> None:
    """Counts what lies in a split's folder itself."""
    left.folders += [f"{split}/{name}" for name in here.passed]
    left.dangling += len(here.dangling)
    left.add_files(name for name in here.files if not folders.is_image(name))
    if loose := sum(map(folders.is_image, here.files)):
        left.loose[split] += loose


def _deeper(root: str, split: str, rows: pa.Table) -> list[str]:
    """Warns where class folders hold only folders, which are then perhaps the classes."""
    inner = pc.struct_field(pc.extract_regex(rows["image_id"], r"^[^/]+/[^/]+/(?P<inner>(?:[^/]+/)?)"), "inner")
    # With Arrow's threads this ends, seldom, in `thread index 10 is out of range`.
    found = (
        pa.table({"class": rows["class_id"], "inner": inner})
        .group_by("class", use_threads=False)
        .aggregate([("inner", "distinct")])
    )
    names = zip(found["class"].to_pylist(), found["inner_distinct"].to_pylist(), strict=True)
    deep = {class_id: sorted(inner) for class_id, inner in sorted(names) if "" not in inner}
    if not deep:
        return []
    first, (one, *_) = next(iter(deep.items()))
    alike = all(inner == [one] for inner in deep.values())
    if alike and (len(deep) > 1 or one.rstrip("/").casefold() in _OF_IMAGES):
        return []
    hold = f"and {len(deep) - 1} more class folders hold" if len(deep) > 1 else "holds"
    return [
        f"warning: {storage.join(root, split, first)} {hold} only folders, such as {one.rstrip('/')!r}: "
        "if those are the classes, set data.class_folders=leaf"
    ]


def _list_leaves(root: str, splits: Sequence[str], names: Mapping[str, str] | None, left: Leftovers) -> Listing:
    """Lists a data set whose classes are the folders that directly hold images, at any depth."""
    found = {split: _leaves(root, split, left) for split in splits}
    folder_of: dict[str, str] = {}
    for split, leaves in found.items():
        for folder in leaves:
            class_id = _class_id(folder)
            if (other := folder_of.setdefault(class_id, folder)) != folder:
                raise UserError(f"data: {root}: the folders {other!r} and {folder!r} would both be class {class_id!r}")
            if split != splits[0] and folder not in found[splits[0]]:
                raise UserError(
                    f"data: {storage.join(root, split, folder)} is of a class that the training split lacks"
                )
    known = classes.ordered(folder_of, names, _texts(folder_of))
    wnids = {each: wnid for each in folder_of if (wnid := _wnid(folder_of[each]))}
    known = Classes(known.texts, known.labels, wnids | dict(known.wnids))
    tables = {split: _leaf_rows(root, split, leaves, known) for split, leaves in found.items()}
    return Listing(tables, known.texts, left.count, notes=left.notes())


def _leaves(root: str, split: str, left: Leftovers) -> dict[str, list[str]]:
    """Names of the images in each folder that directly holds some, by the folder's path inside the split."""
    place = top(root, split)
    leaves: dict[str, list[str]] = {}
    for path in folders.images(place, split, left):
        folder, _, name = path.rpartition("/")
        leaves.setdefault(folder, []).append(name)
    if loose := leaves.pop("", None):
        left.loose[split] += len(loose)
    if not leaves:
        raise UserError(f"data: {place} has no class folders{advice.flat(place, loose or ())}")
    return leaves


def _parts(folder: str) -> list[str]:
    """Parts of a class folder's path, without the letter under which it is filed."""
    parts = folder.split("/")
    return parts[1:] if len(parts) > 1 and len(parts[0]) == 1 else parts


def _class_id(folder: str) -> str:
    return classes.safe("_".join(_parts(folder)))


def _texts(folder_of: Mapping[str, str]) -> dict[str, str]:
    """The parts of each class folder's path in words."""
    parts = {class_id: _parts(folder) for class_id, folder in folder_of.items()}
    words = classes.names({part for each in parts.values() for part in each})
    return {class_id: " ".join(words[part] for part in each) for class_id, each in parts.items()}


def _wnid(folder: str) -> str | None:
    return classes.wnid_in(folder.rpartition("/")[2])


def _leaf_rows(root: str, split: str, leaves: Mapping[str, list[str]], known: Classes) -> pa.Table:
    place = top(root, split)
    found = sorted((_class_id(folder), folder, name) for folder, names in leaves.items() for name in names)
    return listing.rows(
        split,
        [f"{split}/{class_id}/{name}" for class_id, _, name in found],
        [locators.whole(storage.join(place, folder, name)) for _, folder, name in found],
        [class_id for class_id, *_ in found],
        known,
    )
