"""Extrapolating a learning curve: what the error will be with more rows than there are.

Three forms are fitted to the errors at growing sizes and the median of their answers is taken,
which beats each of them and the last value:

    POW3  c + a n^-b        POW4  c + a (n + d)^-b        MMF4  (a b + c n^d) / (b + n^d)

(Viering and Loog, The Shape of Learning Curves: A Review, IEEE TPAMI 45 (2023), 7799-7819.) Points
weigh by their standard error, outliers by a soft L1 loss. A curve that rises significantly is
refused: none of the forms can.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError

MIN_ANCHORS = 6
DRAWS = 24
"""Refits for the band."""

_RISE = 3.0
"""Standard errors by which a later point may be worse than an earlier one."""

_LEVEL = 0.95

Floats = NDArray[np.float64]
_Form = Callable[[Floats, Floats], Floats]


def _pow3(p: Floats, x: Floats) -> Floats:
    return np.asarray(p[0] + p[1] * x ** -p[2])


def _pow4(p: Floats, x: Floats) -> Floats:
    return np.asarray(p[0] + p[1] * (x + p[3]) ** -p[2])


def _mmf4(p: Floats, x: Floats) -> Floats:
    power = x ** p[2]
    return np.asarray((p[1] * p[3] + p[0] * power) / (p[3] + power))


# For each form the parameters' lower and upper ends, and where the fit starts; sizes are in units
# of the largest, errors in units of the largest error. The first parameter is the final error.
_FORMS: tuple[
    tuple[_Form, tuple[float, ...], tuple[float, ...], tuple[tuple[float, ...], ...]], ...
] = (
    (_pow3, (0, 0, 0.02), (1, 2, 2.5), ((0.1, 0.3, 0.5), (0.5, 0.1, 1.0), (0.0, 0.5, 0.2))),
    (
        _pow4,
        (0, 0, 0.02, 0),
        (1, 4, 4, 1),
        ((0.1, 0.3, 0.5, 0.02), (0.5, 0.1, 1.0, 0.05), (0.0, 0.5, 0.2, 0.0)),
    ),
    (
        _mmf4,
        (0, 0, 0.1, 1e-4),
        (1, 4, 4, 20),
        ((0.1, 1.0, 1.0, 0.3), (0.5, 1.5, 1.5, 0.1), (0.0, 1.0, 0.5, 1.0)),
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Extrapolation:
    """Fitted forms, with refits for the band.

    Attributes:
        largest_size: Rows at the largest anchor.
        largest_error: Error that errors are in units of.
        parameters: Of each form.
        draws: Of each form, (draws, parameters).
    """

    largest_size: float
    largest_error: float
    parameters: tuple[Floats, ...]
    draws: tuple[Floats, ...]

    def error_at(self, size: float) -> tuple[float, float, float]:
        """Return the expected error with so many rows, and its 95 % band."""
        x = np.asarray([size / self.largest_size])
        middle = np.median([self._answer(f, p, x) for f, p in enumerate(self.parameters)])
        every = [self._answer(form, row, x) for form, rows in enumerate(self.draws) for row in rows]
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile([*every, middle], [tail, 1 - tail])
        return float(middle), float(min(low, middle)), float(max(high, middle))

    def gain_between(self, size: float, larger: float) -> tuple[float, float, float]:
        """Return by how much the error is expected to fall, and the gain's 95 % band.

        Both sizes are asked of the same refit, so that the level's own doubt drops out.
        """
        x, then = np.asarray([size, larger]) / self.largest_size
        gains = [
            self._answer(form, row, np.asarray([x])) - self._answer(form, row, np.asarray([then]))
            for form, rows in enumerate(self.draws)
            for row in rows
        ]
        middle = self.error_at(size)[0] - self.error_at(larger)[0]
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile([*gains, middle], [tail, 1 - tail])
        return middle, float(min(low, middle)), float(max(high, middle))

    def _answer(self, form: int, parameters: Floats, x: Floats) -> float:
        return float(_FORMS[form][0](parameters, x)[0]) * self.largest_error


def extrapolate(
    sizes: Floats, errors: Floats, standard_errors: Floats, *, seed: int = 0
) -> Extrapolation:
    """Fit the forms.

    Args:
        sizes: Rows at each anchor, ascending, (k,), k >= 6.
        errors: Mean error at each, 0 the best, (k,).
        standard_errors: Of the errors, (k,).
        seed: Of the band.

    Raises:
        GateError: Too few anchors, or a curve that rises.
    """
    if len(sizes) < MIN_ANCHORS:
        raise GateError(
            f"{len(sizes)} points make no learning curve",
            advice=f"Measure at {MIN_ANCHORS} sizes or more.",
        )
    _refuse_rising(sizes, errors, standard_errors)
    scale = max(float(errors.max()), 1e-9)
    x, wanted = sizes / sizes.max(), errors / scale
    # A standard error from few repeats may be far too small by luck.
    spread = np.maximum(standard_errors, np.median(standard_errors) / 2) / scale
    spread = np.maximum(spread, 1e-4)
    random = np.random.default_rng(seed)
    noisy = wanted + random.normal(size=(DRAWS, len(x))) * spread
    parameters, draws = [], []
    for number, (_, _, _, starts) in enumerate(_FORMS):
        fitted = _fit(number, x, wanted, spread, starts)
        parameters.append(fitted)
        draws.append(
            np.stack([_fit(number, x, row, spread, (tuple(fitted.tolist()),)) for row in noisy])
        )
    return Extrapolation(float(sizes.max()), scale, tuple(parameters), tuple(draws))


def _fit(
    number: int, x: Floats, wanted: Floats, spread: Floats, starts: tuple[tuple[float, ...], ...]
) -> Floats:
    from scipy.optimize import least_squares  # noqa: PLC0415 - half a second to load

    form, low, high, _ = _FORMS[number]
    best: tuple[float, Floats] | None = None
    for start in starts:
        inside = np.clip(start, np.asarray(low) + 1e-9, np.asarray(high) - 1e-9)
        found = least_squares(
            lambda p: (form(p, x) - wanted) / spread,
            inside,
            bounds=(low, high),
            loss="soft_l1",
            max_nfev=100,
            ftol=1e-5,  # far below the noise
            xtol=1e-5,
        )
        if best is None or found.cost < best[0]:
            best = (float(found.cost), np.asarray(found.x))
    assert best is not None
    return best[1]


def _refuse_rising(sizes: Floats, errors: Floats, standard_errors: Floats) -> None:
    rise = errors[np.newaxis, :] - errors[:, np.newaxis]
    noise = np.hypot(standard_errors[np.newaxis, :], standard_errors[:, np.newaxis])
    significance = np.triu(rise / np.maximum(noise, 1e-9), 1)
    if significance.max() > _RISE:
        first, later = np.unravel_index(int(significance.argmax()), significance.shape)
        raise GateError(
            f"the error rises from {errors[first]:.3f} with {sizes[first]:.0f} rows to "
            f"{errors[later]:.3f} with {sizes[later]:.0f}, so nothing can be said about more",
            advice="Look for rows that contradict each other, or take another model.",
        )
