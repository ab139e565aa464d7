"""A curve in one line of text, for a progress bar."""

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 16


def sparkline(values: Sequence[float]) -> str:
    """Draw finite values, oldest first; of many, evenly spread ones and always the last.

    Example:
        >>> sparkline([3.0, 2.0, 1.5, 1.0])
        '█▄▂▁'
    """
    step = -(-len(values) // _WIDTH) if values else 1
    shown = list(values[::-1][::step][::-1])
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    if high == low:
        return _BARS[0] * len(shown)
    return "".join(_BARS[int((value - low) / (high - low) * (len(_BARS) - 1))] for value in shown)
