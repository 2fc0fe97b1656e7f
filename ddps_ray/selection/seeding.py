"""Randomness that follows from what is being chosen from, never from who chooses or when."""

import random


def seeded(seed: int, class_id: str) -> random.Random:
    """Returns the random numbers of one class of one set."""
    return random.Random(f"{seed}/{class_id}")
