"""The two failures that are not bugs: what the user got wrong, and an image that cannot be used."""


class UserError(Exception):
    """Something only the user can put right; its one line names the file, key or value. Exit code 2, no traceback."""


class BadImage(Exception):  # noqa: N818 - it names the image, not a fault of ours
    """An image that cannot be decoded or scored; its text is the reason that goes into quarantine."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type's name if it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__
