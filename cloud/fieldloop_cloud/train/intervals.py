"""Intervals of shares."""

import math
from statistics import NormalDist

LEVEL = 0.95
"""Of every interval beside a score."""


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (E. B. Wilson, JASA 22 (1927), 209-212).

    Example:
        >>> tuple(round(end, 3) for end in wilson(10, 10))
        (0.722, 1.0)
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    # At 0 and 1 the ends are exact; rounding must not push them past the share itself.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
