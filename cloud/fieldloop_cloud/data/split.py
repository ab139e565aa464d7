"""Three parts, drawn once: to fit, to choose, and to be believed.

Classes keep their shares (for regression: tenths of the target do), exact copies of a row never
stand in two parts, and the same data with the same seed gives the same split. The test part is
sealed: whoever opens it leaves a line in the run.
"""

import datetime as dt
import hashlib
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.data.dataset import Dataset

_REGRESSION_STRATA = 10


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of the three parts, each ascending int64."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """Hash of the row numbers, part by part."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()


def three_way(
    dataset: Dataset, *, seed: int = 0, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
) -> Split:
    """Split into train, validation and test.

    Args:
        dataset: What to split.
        seed: Same data and seed, same split.
        fractions: Shares of the parts, by rows.

    Raises:
        DataError: Fractions that do not add up, or so many copies that a part is left empty or
            the training part lacks a class.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-9:  # noqa: PLR2004 - rounding
        raise DataError(
            f"split fractions {fractions} are not three positive numbers that add up to 1",
            advice="Use for example (0.6, 0.2, 0.2).",
        )
    random = np.random.default_rng(seed)
    groups = duplicate_groups(dataset.X)
    first = np.unique(groups, return_index=True)[1]
    strata = _strata(dataset)[first]
    part_of_group = np.empty(len(first), dtype=np.int64)
    sizes = np.bincount(groups)
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        part_of_group[members] = _assign(sizes[members], fractions)
    part = part_of_group[groups]
    split = Split(*(np.flatnonzero(part == number) for number in range(3)))
    _check_parts(dataset, split)
    return split


def duplicate_groups(X: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number rows so that exact copies share a number; shape (n,)."""
    # Adding 0 turns -0.0 into 0.0, which is the same value in other bits.
    flat = np.ascontiguousarray(X.reshape(len(X), -1) + np.float32(0))
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    inverse: NDArray[np.int64] = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return inverse


def _strata(dataset: Dataset) -> NDArray[np.int64]:
    if dataset.task == "classification":
        return dataset.y.astype(np.int64)
    edges = np.quantile(dataset.y, np.linspace(0, 1, _REGRESSION_STRATA + 1)[1:-1])
    tenths: NDArray[np.int64] = np.searchsorted(edges, dataset.y, side="right").astype(np.int64)
    return tenths


def _assign(sizes: NDArray[np.int64], fractions: tuple[float, float, float]) -> NDArray[np.int64]:
    """Lay groups on a line, in their order; the part is where a group's middle falls."""
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    part: NDArray[np.int64] = np.searchsorted(
        np.cumsum(fractions)[:2], middle, side="right"
    ).astype(np.int64)
    return part


def _check_parts(dataset: Dataset, split: Split) -> None:
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    empty = [name for name, rows in parts.items() if not len(rows)]
    lacking = set(range(len(dataset.labels))) - set(np.unique(dataset.y[split.train]).tolist())
    if empty or (dataset.labels and lacking):
        names = [repr(dataset.labels[int(index)]) for index in sorted(lacking)]
        what = (
            f"the {' and '.join(empty)} part would be empty"
            if empty
            else f"the training part would lack {', '.join(names)}"
        )
        raise DataError(
            f"{what}, because copies of a row must stay together",
            where=dataset.name,
            advice="Remove copies or bring more different rows.",
        )


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """One opening of the sealed test set.

    Attributes:
        at: UTC, ISO 8601.
        purpose: What it was opened for.
        forced: Whether it had been opened before.
    """

    at: str
    purpose: str
    forced: bool = False


class SealedTest:
    """The test part: opened once, by the final evaluation, and every opening is logged.

    Args:
        dataset: The test rows.
        openings: Earlier openings, for example those of a loaded run.
    """

    def __init__(self, dataset: Dataset, *, openings: tuple[Opening, ...] = ()) -> None:
        self._dataset = dataset
        self._openings = list(openings)

    @property
    def openings(self) -> tuple[Opening, ...]:
        """Every opening so far, oldest first."""
        return tuple(self._openings)

    def __len__(self) -> int:
        return len(self._dataset)

    def open(self, purpose: str, *, force: bool = False) -> Dataset:
        """Return the test rows and log why.

        Raises:
            GateError: It was opened before; a second look makes the score an optimistic one.
        """
        if self._openings and not force:
            first = self._openings[0]
            raise GateError(
                f"the test set was opened already, at {first.at} for {first.purpose}",
                advice="Use the score of that opening, or force it and say so in the report.",
            )
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._openings.append(Opening(at=now, purpose=purpose, forced=bool(self._openings)))
        return self._dataset
