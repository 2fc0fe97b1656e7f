"""The stages as Ray jobs: the only modules that import ray."""

import os

# Ray reads it when it is imported. A driver claims its share of the cluster again every 10 s, and a killed one's claim
# holds for as long as this, 3 minutes by itself: the next job would score with what the dead one leaves it, and have no
# CPU to write with.
os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "30")
