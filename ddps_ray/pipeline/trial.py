"""The check of the judge where the work is to be done: in a process of its own, on a GPU if there is one."""

import ray

from ddps_ray import judge
from ddps_ray.config import Recipe
from ddps_ray.verdict import Verdict


def verdict(recipe: Recipe, gpus: float, threads: int) -> Verdict:
    """What the check finds; the end of its process gives the GPU's memory back.

    Args:
        recipe: The recipe, its model pinned.
        gpus: GPUs, or a part of one, to take.
        threads: CPU cores to take where it takes no GPU.

    Raises:
        UserError: The model cannot be loaded, or not one of the images can be used.
    """
    trial = ray.remote(num_gpus=gpus, num_cpus=0 if gpus else 1, max_calls=1)(judge.examine)
    found: Verdict = ray.get(trial.remote(recipe, threads=threads))
    return found
