"""The sealed test set: opened once, by the final evaluation, and every opening is logged."""

import datetime as dt

import msgspec

from fieldloop.errors import GateError
from fieldloop_cloud.data.dataset import Dataset


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
