"""Which inputs are sent home so that a person can label them.

Two streams share the day's budget. *Random* draws are for audits: an estimate from them is
unbiased when each is weighted by the inverse of its logged inclusion probability (Horvitz &
Thompson, 1952). *Novel* and *uncertain* inputs (outside the trained range; answered without
confidence) teach a model more per label, but say nothing about its accuracy.

A budget that simply runs out would leave the evening unseen. So a stream's rate falls with what
is left of its half of the budget, and what is logged is the rate at that very moment.
"""

import logging
import random
from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Prediction
from fieldloop.layout import layout
from fieldloop.signature import Signature
from fieldloop.telemetry import Clock, FieldSample

logger = logging.getLogger(__name__)

_DAY_MS = 86_400_000
_DIGITS = 7
"""Significant digits of a float32."""

Policy = Literal["random", "uncertain", "novel"]
Draw = tuple[float, Policy | None]
"""A random number in [0, 1), and why the input is of interest by itself."""

Redaction = Callable[[list[object]], list[object] | None]
"""Takes the raw input, returns what may leave the device; None if nothing may."""


class Sampler:
    """Chooses field samples for one model.

    Args:
        signature: The model's contract.
        budget_per_day: Most samples a day; 0 sends none.
        random_rate: Share of inputs drawn at random while the budget is whole.
        uncertain_below: Less confidence than this is uncertain.
        allowed: The privacy switch; None allows numbers and forbids images.
        spent: Samples that were stored today before this start.
        redact: Sees every sample before it leaves.
        seed: Of the draws; None is the system's randomness.
    """

    def __init__(
        self,
        signature: Signature,
        *,
        budget_per_day: int,
        random_rate: float,
        uncertain_below: float,
        allowed: bool | None = None,
        spent: int = 0,
        redact: Redaction | None = None,
        seed: int | None = None,
    ) -> None:
        self._signature = signature
        is_allowed = signature.image is None if allowed is None else allowed
        self._share = budget_per_day / 2 if is_allowed else 0.0
        self._random_rate = random_rate
        self._rates = {"random": random_rate, "uncertain": 1.0, "novel": 1.0}
        self._uncertain_below = uncertain_below
        self._spent = {"random": spent / 2, "chosen": spent / 2}
        self._day: int | None = None
        self._redact = redact
        self._random = random.Random(seed).random  # noqa: S311 - sampling, not secrecy

    def draw(self, prediction: Prediction) -> Draw | None:
        """Say whether an input may be chosen, before anything else is asked for it.

        Returns:
            None for nearly every input; else what `choose` needs.
        """
        if self._share <= 0.0:
            return None
        why: Policy | None = None
        if prediction.out_of_range:
            why = "novel"
        elif prediction.confidence is not None and prediction.confidence < self._uncertain_below:
            why = "uncertain"
        drawn = self._random()
        return None if why is None and drawn >= self._random_rate else (drawn, why)

    def choose(
        self,
        draw: Draw,
        raw: object,
        rows: NDArray[np.float32],
        prediction: Prediction,
        *,
        sample_id: Callable[[], str],
        model: str,
        now: Callable[[], Clock],
    ) -> FieldSample | None:
        """Return the sample to send home, or None if the budget does not allow it now.

        Args:
            draw: What `draw` gave for it.
            raw: As the user gave it.
            rows: Its encoded row, shape (1, …).
            prediction: Its answer.
            sample_id: Gives the name that labels refer to; asked for only when it is chosen.
            model: Names the model in telemetry.
            now: Gives the moment and the budget's day.
        """
        at = now()
        self._begin_day(at.wall_ms)
        policy, probability = self._decide(*draw)
        if policy is None:
            return None
        content = self._redacted(self._content(raw, rows))
        if content is None:
            return None
        self._spent["random" if policy == "random" else "chosen"] += 1
        return FieldSample(
            boot=0,
            seq=0,
            at=at,
            model=model,
            sample_id=sample_id(),
            raw=content,
            predicted=prediction.answer,
            confidence=prediction.confidence,
            policy=policy,
            inclusion_probability=probability,
        )

    def _redacted(self, content: list[object]) -> list[object] | None:
        if self._redact is None:
            return content
        try:
            return self._redact(content)
        except Exception:
            # What the hook could not clean must not leave, and the prediction is not to blame.
            logger.exception("the redaction failed; the sample is not sent")
            return None

    def _decide(self, drawn: float, why: Policy | None) -> tuple[Policy | None, float]:
        """Draw from the random stream, and from the other one if that did not take it."""
        random_rate = self._rate("random")
        if drawn < random_rate:
            return "random", random_rate
        if why is not None:
            rate = self._rate(why)
            if self._random() < rate:
                return why, rate * (1.0 - random_rate)
        return None, 0.0

    def _rate(self, policy: Policy) -> float:
        spent = self._spent["random" if policy == "random" else "chosen"]
        # The last sample of a half is drawn with the rate of one, so the budget is a hard limit.
        left = max(self._share - spent, 0.0) if spent + 1 <= self._share else 0.0
        return self._rates[policy] * left / self._share

    def _begin_day(self, wall_ms: int) -> None:
        day = wall_ms // _DAY_MS
        if self._day is not None and day != self._day:
            self._spent = {"random": 0.0, "chosen": 0.0}
        self._day = day

    def _content(self, raw: object, rows: NDArray[np.float32]) -> list[object]:
        """Return the input as a list in the user's units; of several inputs a list of each."""
        if len(self._signature.inputs) > 1:
            return self._of_each_input(raw, rows.reshape(-1))
        if self._signature.image is not None:
            return self._image(rows)
        return self._row(raw, rows)

    def _of_each_input(self, raw: object, row: NDArray[np.float32]) -> list[object]:
        places = layout(self._signature)
        content: list[object] = []
        for place, (spec, columns) in enumerate(
            zip(self._signature.inputs, places.columns, strict=True)
        ):
            values = row[columns]
            if place == places.image_at:
                content.append(self._image(values))
            elif place == places.features_at:
                given = raw[spec.name] if isinstance(raw, dict) else cast("Any", raw)[place]
                content.append(self._row(given, values))
            else:
                content.append(_rounded(values.reshape(spec.shape[1:]).tolist()))
        return content

    def _row(self, raw: object, rows: NDArray[np.float32]) -> list[object]:
        if isinstance(raw, dict):
            return [_plain(raw.get(name)) for name in self._signature.feature_names]
        if isinstance(raw, np.ndarray):
            return list(raw.reshape(-1).tolist())
        if isinstance(raw, list | tuple):
            return [_plain(value) for value in raw]
        return list(rows.reshape(-1).tolist())

    def _image(self, rows: NDArray[np.float32]) -> list[object]:
        """Return the image as the model saw it, in the user's range; at most the model's size."""
        spec = self._signature.image
        assert spec is not None
        pixels = (rows.astype(np.float64) - spec.offset) / spec.scale
        shape: tuple[int, ...] = (spec.height, spec.width, spec.channels)
        if spec.channels == 1:
            shape = shape[:2]
        return [_rounded(row) for row in pixels.reshape(shape).tolist()]


def _plain(value: Any) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _rounded(value: Any) -> object:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}")
