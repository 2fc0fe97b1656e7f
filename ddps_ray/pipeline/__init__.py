"""The stages as Ray jobs: the only modules that import ray."""

import os

NOISE = (
    # A training has more processes than cores; they wait for each other most of the time.
    r"worker processes have been started on node",
    # Lost with the driver, which the actors do not outlive either.
    r"has constructor arguments in the object store and max_restarts > 0",
    # A worker that was not needed any more left before it was told to.
    r"Failed to kill actor NIL_ID",
)
"""What Ray says for certain in a job of ours, and what nobody needs to know: a regular expression each."""

_NOISE = "|".join(NOISE)

# Ray reads these when it is imported.
for _name, _value in {
    # A driver claims its share of the cluster again every 10 s, and a killed one's claim holds for as long as this, 3
    # minutes by itself: the next job would score with what the dead one leaves it, and have no CPU to write with.
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "30",
    # A line that several workers say is no repetition; known noise is dropped, which Ray does only if it looks for one.
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": _NOISE,
    "RAY_DEDUP_LOGS_ALLOW_REGEX": rf"\A(?!.*({_NOISE}))",
    "RAY_COLOR_PREFIX": "0",
}.items():
    os.environ.setdefault(_name, _value)
