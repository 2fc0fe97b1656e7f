"""Foreign sets of encoded images: folders of classes, and Parquet files."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddps_ray import storage
from ddps_ray.config import ForeignSet
from ddps_ray.errors import UserError, first_line
from ddps_ray.sources import containers, folders, huggingface, imagefolder, leftovers, locators, parquet
from ddps_ray.sources.leftovers import Leftovers
from ddps_ray.students.foreign import content
from ddps_ray.students.foreign.content import Content
from ddps_ray.students.foreign.naming import Naming

TRAIN = "train"
_LABELS = ("label", "class_id")


def has_folders(path: str) -> bool:
    """Says whether a place is a folder of class folders, of which one has an image."""
    if content.is_file(path):
        return False
    top = _top(path)
    inside = (folders.tree(storage.join(top, name)).files for name in folders.folders(top))
    return any(any(map(folders.is_image, files)) for files in inside)


def has_parquet(path: str) -> bool:
    """Says whether a place is a Parquet file, or a folder with some that have a column of images."""
    if content.is_file(path):
        return content.split(path)[1].endswith(huggingface.SUFFIX)
    return huggingface.recognises(path, (TRAIN,))


def read_folders(settings: ForeignSet, naming: Naming) -> Content:
    """Lists the images of class folders.

    Args:
        settings: The set.
        naming: The classes of the data set.

    Raises:
        UserError: There are none, a class folder is empty or of no class, or a file cannot be read.
    """
    top = _top(settings.path)
    names = folders.folders(top)
    if not names:
        raise UserError(f"{top} has no class folders")
    class_of = naming.of_folders(names)
    left = Leftovers(loose=Counter(_loose(top)))
    files = sorted(
        (class_of[name], name, path) for name in names for path in folders.images(storage.join(top, name), name, left)
    )
    if left.dangling:
        raise UserError(f"{top} has {leftovers.links(left.dangling)}: a distilled set must be whole")
    uris = [storage.join(top, name, path) for _, name, path in files]
    sizes, digests = zip(*content.each(uris, content.of_file), strict=True)
    ids = tuple(f"{class_id}/{path}" for class_id, _, path in files)
    return Content(
        ids,
        tuple(class_id for class_id, *_ in files),
        naming.of_set(class_of.values()),
        size=sum(sizes),
        digest=content.digest_of(sorted(f"{id_} {digest}" for id_, digest in zip(ids, digests, strict=True))),
        uris=tuple(map(locators.whole, uris)),
        notes=(
            *left.notes(),
            *(() if naming.are_some(names) else naming.doubt(set(class_of.values()), "class folders")),
        ),
    )


def read_parquet(settings: ForeignSet, naming: Naming) -> Content:
    """Lists the images of Parquet files: encoded, with a label or a class id.

    Args:
        settings: The set.
        naming: The classes of the data set.

    Raises:
        UserError: There are none, columns are missing, a label is missing, out of range or of no class, or a file
            cannot be read.
    """
    path = settings.path
    files = [] if content.is_file(path) else _files(path)
    uris = [storage.join(path, name) for name in files] or [path]
    tables = [_rows(uri, settings, naming) for uri in uris]
    labels = [label for table in tables for label in table["label"].to_pylist()]
    if not labels:
        raise UserError(f"{path} has no images")
    if len({type(label) for label in labels}) > 1:
        raise UserError(f"{path}: labels are numbers in one file and text in another")
    used = sorted(set(labels))
    class_of = naming.of_names(used) if isinstance(used[0], str) else naming.of_numbers(used)
    found = list(content.each(uris, content.of_file))
    names = files or [content.split(path)[1]]
    ids = [f"{name}#{row}" for name, table in zip(names, tables, strict=True) for row in range(table.num_rows)]
    places = [uri for table in tables for uri in table["uri"].to_pylist()]
    class_ids_N = [class_of[label] for label in labels]
    order = content.in_order(class_ids_N, [name for table in tables for name in table["name"].to_pylist()])
    return Content(
        tuple(ids[place] for place in order),
        tuple(class_ids_N[place] for place in order),
        naming.of_set(class_of.values()),
        size=sum(size for size, _ in found),
        digest=content.digest_of(digest for _, digest in found),
        uris=tuple(places[place] for place in order),
        notes=() if isinstance(used[0], str) else naming.doubt(set(class_of.values()), "labels"),
    )


def _top(path: str) -> str:
    """The folder of the class folders: `train` where that has some, so that a class may be called so."""
    return imagefolder.top(path, TRAIN) if imagefolder.recognises(path, (TRAIN,)) else path


def _loose(top: str) -> dict[str, int]:
    count = sum(map(folders.is_image, folders.files(top)))
    return {top: count} if count else {}


def _files(path: str) -> list[str]:
    """Parquet files inside a folder, of the split `train` where there are several."""
    splits = containers.found(path, huggingface.SUFFIX, (TRAIN,))
    there = [split for split, names in splits.items() if _have_images(path, names)]
    if not there:
        raise UserError(f"{path} has no Parquet files with a column of images")
    if len(there) > 1 and TRAIN not in there:
        raise UserError(f"{path} has several splits, {', '.join(there)}: name one of the files in `path`")
    split = TRAIN if TRAIN in there else there[0]
    return containers.of_splits(path, huggingface.SUFFIX, (split,))[split]


def _have_images(path: str, names: Sequence[str]) -> bool:
    return bool(parquet.image_columns(_footer(storage.join(path, names[0])).schema.to_arrow_schema()))


def _footer(uri: str) -> pq.FileMetaData:
    filesystem, place = storage.open_uri(uri)
    try:
        return pq.read_metadata(place, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri} cannot be read{containers.hint(uri) or ': ' + first_line(error)}") from error


def _rows(uri: str, settings: ForeignSet, naming: Naming) -> pa.Table:
    """Where each image of a file is, and its label: a name, or a whole number."""
    footer = _footer(uri)
    schema = footer.schema.to_arrow_schema()
    there = f"among {', '.join(schema.names)}"
    images = parquet.image_columns(schema, settings.images)
    if len(images) != 1:
        raise UserError(f"{uri} has no column `image` of encoded images {there}: name it in `images`")
    parquet.check_groups(uri, footer, images[0])
    wanted = _LABELS if settings.labels is None else (settings.labels,)
    column = next((name for name in wanted if name in schema.names), None)
    if column is None:
        raise UserError(f"{uri} has no column {' or '.join(map(repr, wanted))} {there}: name it in `labels`")
    labels = _column(uri, column)
    if pa.types.is_integer(labels.type) and settings.classes is None:
        labels = _by_own_names(labels, huggingface.class_names(uri, schema, column) or [], naming)
    places = locators.rows(uri, len(labels), settings.images)
    return pa.table({"uri": places, "label": labels, "name": _file_names(uri, schema, images[0], len(labels))})


def _file_names(uri: str, schema: pa.Schema, images: str, count: int) -> list[str]:
    """What Hugging Face's struct of bytes and path says the file of each image was called; "" where it does not say."""
    column = images.removesuffix(".bytes")
    kind = schema.field(column).type if column in schema.names else pa.null()
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [""] * count
    filesystem, place = storage.open_uri(uri)
    try:
        with pq.ParquetFile(place, filesystem=filesystem) as file:
            held = file.read(columns=[f"{column}.path"])[column]
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri} cannot be read: {first_line(error)}") from error
    paths = pc.struct_field(held, "path").to_pylist()
    return [path.rpartition("/")[2] if isinstance(path, str) else "" for path in paths]


def _column(uri: str, column: str) -> pa.Array:
    filesystem, place = storage.open_uri(uri)
    try:
        labels = pq.read_table(place, filesystem=filesystem, columns=[column])[column].combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri} cannot be read: {first_line(error)}") from error
    labels = labels.dictionary_decode() if pa.types.is_dictionary(labels.type) else labels
    if not any(test(labels.type) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        raise UserError(f"{uri}: its labels {column!r} are {labels.type}, and neither whole numbers nor text")
    if labels.null_count:
        raise UserError(f"{uri}: row {pc.index(pc.is_null(labels), True).as_py()} has no label")
    return labels


def _by_own_names(labels: pa.Array, names: Sequence[str], naming: Naming) -> pa.Array:
    """Labels by the names that the file has for them, where those are classes of the data set."""
    if not naming.are_some(names):
        return labels
    for label in labels.unique().to_pylist():
        if not 0 <= label < len(names):
            raise UserError(f"label {label} is out of range: the file names {len(names)}, from 0 to {len(names) - 1}")
    return pa.array(names, pa.string()).take(labels.cast(pa.int64()))
