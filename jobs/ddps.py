"""Any `ddps` command as a Ray job: `ray job submit --working-dir . -- python jobs/ddps.py run --config …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the uploaded checkout, if the package is not installed

from ddps_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
