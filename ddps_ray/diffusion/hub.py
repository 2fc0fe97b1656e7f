"""Models of the Hub: a snapshot brought to this machine; and, where that fails, why, and what to do about it."""

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from httpx2 import ConnectError, ProxyError, TimeoutException
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ddps_ray.config import Model
from ddps_ray.errors import UserError, first_line

_ELSEWHERE = "or copy the model's folder here, or to a store, and name that"
_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (GatedRepoError, f"it is gated: accept its terms on the Hub, and set HF_TOKEN on every node, {_ELSEWHERE}"),
    (RevisionNotFoundError, "it has no such model.revision"),
    (
        RepositoryNotFoundError,
        "there is no folder here and no model on the Hub that is called so; a private one needs HF_TOKEN",
    ),
    (HFValidationError, "there is no folder here that is called so, and no model of the Hub can be"),
    (ProxyError, f"a proxy is in the way: put its user and password into HTTPS_PROXY, {_ELSEWHERE}"),
    (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and it is not in this machine's cache"),
    (ConnectError, f"the Hub does not answer here: mind HTTPS_PROXY, {_ELSEWHERE}"),
    (TimeoutException, f"the Hub does not answer here: mind HTTPS_PROXY, {_ELSEWHERE}"),
)
"""By the kind of an error; the first that fits."""

_DISKS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "set HF_HOME to a disk with room for it"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "no right to write there: set HF_HOME to a folder where there is"
    ),
    errno.ENOTDIR: "that is no folder: set HF_HOME to one",
}
"""By the number of a disk's error."""

_PROXY_AUTHENTICATION = 407


def snapshot(model: Model, patterns: Sequence[str], here: bool = False) -> Path:
    """Returns the folder of a model's snapshot, named by its commit, with the files that match.

    Args:
        model: The recipe's section.
        patterns: Of the files that are wanted.
        here: Whether only this machine's cache is looked into.

    Raises:
        UserError: It cannot be had; the message says why, and what to do.
    """
    try:
        return Path(
            snapshot_download(model.path, revision=model.revision, allow_patterns=list(patterns), local_files_only=here)
        )
    except (OSError, ValueError, ProxyError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise UserError(explained(error, model)) from error


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch or a tag."""
    return re.fullmatch(r"[0-9a-f]{40}", revision or "") is not None


def explained(error: BaseException, model: Model) -> str:
    """Says in one line why a model cannot be had, and what to do."""
    at = f" at revision {model.revision}" if model.revision else ""
    chain = list(_chain(error))
    for kind, remedy in _REMEDIES:
        for each in chain:
            if isinstance(each, kind):
                return f"model.path: {model.path}{at}: {_brief(each)}: {_for_proxies(each) or remedy}"
    for each in chain:
        if isinstance(each, OSError) and each.errno in _DISKS:
            return f"model.path: {model.path}{at}: {_brief(each)}: {_DISKS[each.errno]}"
    deepest = next((each for each in chain if isinstance(each, HfHubHTTPError)), error)
    return f"model.path: {model.path}{at}: {_brief(deepest)}: {_for_proxies(deepest) or f'try again, {_ELSEWHERE}'}"


def _for_proxies(error: BaseException) -> str | None:
    """What to do about an answer that is a proxy's, and not the Hub's."""
    answer = getattr(error, "response", None)
    if answer is None or answer.status_code != _PROXY_AUTHENTICATION:
        return None
    return dict(_REMEDIES)[ProxyError]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: the client says only in the end that a file is not in its cache."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _brief(error: BaseException) -> str:
    """The first line of an error without addresses and request numbers; of a file, which one."""
    name = getattr(error, "filename", None)
    said = f"{name}: {error.strerror}" if isinstance(error, OSError) and name and error.strerror else first_line(error)
    return (
        re.sub(r"\s*\(Request ID:[^)]*\)|\s*(for url:?)?\s*'?https?://\S+", "", said).strip().rstrip(".:")
        or constants.ENDPOINT
    )
