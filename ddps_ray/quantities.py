"""Numbers as people read them."""

import math

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def amount(value: float) -> str:
    """A number of hours or of money: one decimal, and none from a hundred on."""
    if 0 < value < 0.1:
        return "under 0.1"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def si(value: float) -> str:
    """A number of three digits and the prefix of its unit, e.g. `3.60 T`."""
    rounded = float(f"{value:.3g}")
    power = min(len(_PREFIXES) - 1, int(math.log10(rounded) // 3)) if rounded >= 1 else 0
    return f"{rounded / 1000**power:.3g} {_PREFIXES[power]}"
