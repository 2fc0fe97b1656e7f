"""A process of its own that loads the images of a recipe for the tests: `python -m tests.students.decoder FILE`.

FILE is JSON: `uris` and `side`. After `after` images, 0 if it is absent, `marker` is a file that is made, and `gate` a
named pipe that is waited for until someone opens it. `file_limit` is the most bytes that a file may have. It prints a
line of JSON: `digest` of the pixels, `bad`, and the `kind` of array.
"""

import hashlib
import itertools
import json
import resource
import sys
import threading
from pathlib import Path

from PIL import Image

from ddps_ray.students import images


def main() -> None:
    wanted = json.loads(Path(sys.argv[1]).read_text())
    if "file_limit" in wanted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (wanted["file_limit"], wanted["file_limit"]))

    lock, seen = threading.Lock(), itertools.count()

    def fit(image: Image.Image) -> Image.Image:
        with lock:
            if next(seen) == wanted.get("after", 0):
                if "marker" in wanted:
                    Path(wanted["marker"]).touch()
                if "gate" in wanted:
                    Path(wanted["gate"]).read_bytes()
        return image.resize((wanted["side"], wanted["side"]))

    name = images.name(wanted["uris"], f"resize {wanted['side']}")
    found = images.load(wanted["uris"], fit, wanted["side"], name)
    assert found is not None
    digest = hashlib.sha256(found.pixels_NHWC.tobytes()).hexdigest()
    print(json.dumps({"digest": digest, "bad": found.bad, "kind": type(found.pixels_NHWC).__name__}))


main()
