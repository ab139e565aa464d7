"""Which channels go: the least important ones, with enough left in every layer."""

import math
from collections.abc import Mapping, Sequence

from fieldloop_cloud.train.prune.channels import Trace

KEPT_SHARE = 0.1
"""No layer loses more than all but this share of its channels."""

Family = tuple[str, ...]
"""The layers that make a group of channels together."""


def least_important(
    trace: Trace, scores: Mapping[int, float], share: float, *, multiple_of: int = 1
) -> frozenset[int]:
    """Return the groups to take out so that about `share` of all channels goes, wherever they are.

    Args:
        trace: The net's channels.
        scores: Importance of each group that may go.
        share: Of all channels that may go.
        multiple_of: What a layer keeps is rounded up to a multiple of this.
    """
    families = trace.families()
    total = sum(len(groups) for groups in families.values())
    family_of = {group: family for family, groups in families.items() for group in groups}
    left = {family: len(groups) for family, groups in families.items()}
    doomed: dict[Family, list[int]] = {family: [] for family in families}
    wanted = round(share * total)
    for group in sorted(family_of, key=lambda group: (scores[group], group)):
        family = family_of[group]
        if wanted > 0 and left[family] > _floor(len(families[family]), multiple_of):
            left[family] -= 1
            doomed[family].append(group)
            wanted -= 1
    return _rounded(doomed, left, multiple_of)


def least_of_each(
    trace: Trace,
    scores: Mapping[int, float],
    shares: Mapping[Family, float],
    *,
    multiple_of: int = 1,
) -> frozenset[int]:
    """Return the groups to take out so that every layer loses its own share of channels."""
    doomed, left = {}, {}
    for family, groups in trace.families().items():
        ranked = sorted(groups, key=lambda group: (scores[group], group))
        most = max(0, len(groups) - _floor(len(groups), multiple_of))
        count = min(most, round(shares.get(family, 0.0) * len(groups)))
        doomed[family], left[family] = ranked[:count], len(groups) - count
    return _rounded(doomed, left, multiple_of)


def allotted(
    curves: Mapping[Family, Sequence[tuple[float, float]]],
    sizes: Mapping[Family, int],
    share: float,
) -> dict[Family, float]:
    """Return each layer's share so that about `share` of all goes where it costs least.

    Args:
        curves: For each layer points of (share of its channels gone, what that cost).
        sizes: Channels of each layer.
        share: Of all channels together.
    """
    total = sum(sizes.values())
    # Take the next step of the layer to which it costs least, until enough is gone.
    steps = sorted(
        (max(cost for part, cost in points[: place + 1]), family, points[place][0])
        for family, points in curves.items()
        for place in range(len(points))
    )
    shares = dict.fromkeys(sizes, 0.0)
    for _, family, part in steps:
        gone = sum(shares[name] * sizes[name] for name in shares)
        if gone >= share * total:
            break
        room = (share * total - gone) / sizes[family]
        shares[family] = max(shares[family], min(part, shares[family] + room))
    return shares


def _floor(count: int, multiple_of: int) -> int:
    return min(count, max(1, multiple_of, math.ceil(KEPT_SHARE * count)))


def _rounded(
    doomed: Mapping[Family, list[int]], left: Mapping[Family, int], multiple_of: int
) -> frozenset[int]:
    """Spare the most important of the doomed so that what is left is a multiple."""
    gone: set[int] = set()
    for family, groups in doomed.items():
        spare = -left[family] % multiple_of
        gone.update(groups[: max(0, len(groups) - spare)])
    return frozenset(gone)
