"""May the challenger replace the champion? The gate between retraining and the fleet.

Both flatbuffers answer the same labelled field rows, which neither was trained on. A row is *won*
if only the challenger is right (for numbers: if it is closer) and *lost* the other way round; the
rest says nothing:

1. *Better*: exact one-sided McNemar test over these rows (for numbers the sign test, and the mean
   absolute error must not grow), p <= alpha.
2. *No class pays for it*: for each class the same test the other way round, corrected for the
   number of classes (Holm). A class with too few rows to show that it lost nothing is named.
3. *It still fits*: the variant is within its device's budget of bytes and latency.

McNemar 1947, Psychometrika 12; Holm 1979, Scand. J. Statist. 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fieldloop.errors import DataError, GateError
from fieldloop.signature import Category
from fieldloop_cloud.compile.quantize import paired_drop_high
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.scored import Scored
from fieldloop_cloud.train.measure import answers

ALPHA = 0.05
CLASS_MARGIN = 0.05
"""Loss of a class's accuracy that would be borne; larger ones must be ruled out or are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutcome:
    """What the challenger means for one class.

    Attributes:
        label: The class.
        row_count: Field rows of it.
        won: Rows that only the challenger got right.
        lost: Rows that only the champion got right.
        drop_high: Upper 95 % limit of the accuracy lost.
        worse: Whether it is significantly worse, corrected for the number of classes.
    """

    label: Category
    row_count: int
    won: int
    lost: int
    drop_high: float
    worse: bool

    @property
    def shown_safe(self) -> bool:
        """Whether a loss of more than `CLASS_MARGIN` is ruled out."""
        return self.drop_high <= CLASS_MARGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeResult:
    """The gate's evidence and its verdict.

    Attributes:
        accepted: Whether the challenger may go on.
        row_count: Labelled field rows compared.
        metric: `accuracy`, or `mean_absolute_error` for numbers.
        champion_score: On these rows.
        challenger_score: On these rows.
        won: Rows on which the challenger is better.
        lost: Rows on which the champion is better.
        p_value: Exact one-sided test of "the challenger is better".
        alpha: Its level.
        classes: Outcome by class; empty for numbers.
        champion_size_bytes: Of the champion's flatbuffer.
        challenger_size_bytes: Of the challenger's.
        champion_latency_p90_ms: Measured on the workstation.
        challenger_latency_p90_ms: The same.
        sentence: All of it for people.
    """

    accepted: bool
    row_count: int
    metric: Literal["accuracy", "mean_absolute_error"]
    champion_score: float
    challenger_score: float
    won: int
    lost: int
    p_value: float
    alpha: float
    classes: tuple[ClassOutcome, ...]
    champion_size_bytes: int
    challenger_size_bytes: int
    champion_latency_p90_ms: float
    challenger_latency_p90_ms: float
    sentence: str

    def require(self) -> None:
        """Do nothing if the challenger was accepted.

        Raises:
            GateError: It was not; says why.
        """
        if not self.accepted:
            raise GateError(
                self.sentence,
                where="champion/challenger gate",
                advice="Label more field samples, or keep the champion.",
            )


def challenge(
    champion: Scored, challenger: Scored, audit: Dataset, *, alpha: float = ALPHA
) -> ChallengeResult:
    """Compare two variants on labelled field rows that neither has seen.

    Args:
        champion: What runs now.
        challenger: What would replace it.
        audit: The field rows.
        alpha: Level of the test that the challenger is better.

    Raises:
        DataError: There are no rows.
    """
    if not len(audit):
        raise DataError(
            "there are no labelled field rows to compare on",
            advice="Label randomly chosen field samples first.",
        )
    paired = _paired(champion, challenger, audit)
    won, lost = int(paired.won.sum()), int(paired.lost.sum())
    p_value = better(won, lost)
    classes = _by_class(audit, paired, alpha)
    problems = _problems(p_value, alpha, paired, classes, challenger)
    return ChallengeResult(
        accepted=not problems,
        row_count=len(audit),
        metric=paired.metric,
        champion_score=paired.before,
        challenger_score=paired.after,
        won=won,
        lost=lost,
        p_value=p_value,
        alpha=alpha,
        classes=classes,
        champion_size_bytes=champion.size_bytes,
        challenger_size_bytes=challenger.size_bytes,
        champion_latency_p90_ms=champion.latency_p90_ms,
        challenger_latency_p90_ms=challenger.latency_p90_ms,
        sentence=_sentence(paired, p_value, problems, classes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paired:
    """The rows that tell the two apart, boolean (n,), and both scores."""

    metric: Literal["accuracy", "mean_absolute_error"]
    won: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    before: float
    after: float


def _paired(champion: Scored, challenger: Scored, audit: Dataset) -> _Paired:
    if audit.labels:
        old, new = (_right(item, audit) for item in (champion, challenger))
        return _Paired(
            metric="accuracy",
            won=new & ~old,
            lost=old & ~new,
            before=float(old.mean()),
            after=float(new.mean()),
        )
    before, after = (_errors(item, audit) for item in (champion, challenger))
    return _Paired(
        metric="mean_absolute_error",
        won=after < before,
        lost=before < after,
        before=float(before.mean()),
        after=float(after.mean()),
    )


def _errors(item: Scored, audit: Dataset) -> NDArray[np.float64]:
    said = answers(item.compiled.tflite, item.compiled.signature, audit.X).predicted
    return np.abs(np.asarray(said, dtype=np.float64).ravel() - audit.y)


def better(won: int, lost: int) -> float:
    """Exact one-sided McNemar (or sign test) p-value of "more won than lost".

    Example:
        >>> better(5, 0)
        0.03125
    """
    if won + lost == 0:
        return 1.0
    return float(stats.binomtest(won, won + lost, 0.5, alternative="greater").pvalue)


def _right(item: Scored, audit: Dataset) -> NDArray[np.bool_]:
    """Say which rows a variant's flatbuffer gets right, in the audit set's labels."""
    signature = item.compiled.signature
    said = answers(item.compiled.tflite, signature, audit.X).predicted
    names = np.array([audit.labels.index(label) for label in signature.labels])
    right: NDArray[np.bool_] = names[said] == audit.y
    return right


def _by_class(audit: Dataset, paired: _Paired, alpha: float) -> tuple[ClassOutcome, ...]:
    won, lost = paired.won, paired.lost
    present = [index for index in range(len(audit.labels)) if (audit.y == index).any()]
    table = [
        (int((audit.y == k).sum()), int(won[audit.y == k].sum()), int(lost[audit.y == k].sum()))
        for k in present
    ]
    worse = holm([better(down, up) for _, up, down in table], alpha)
    return tuple(
        ClassOutcome(
            label=audit.labels[index],
            row_count=count,
            won=up,
            lost=down,
            drop_high=paired_drop_high(down, up, count),
            worse=hit,
        )
        for index, (count, up, down), hit in zip(present, table, worse, strict=True)
    )


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Say which hypotheses are rejected with a family-wise error of at most `alpha`.

    Example:
        >>> holm([0.01, 0.04, 0.03], 0.05)
        [True, False, False]
    """
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _problems(
    p_value: float,
    alpha: float,
    paired: _Paired,
    classes: Sequence[ClassOutcome],
    challenger: Scored,
) -> list[str]:
    problems = []
    if p_value > alpha:
        problems.append(f"it is not shown to be better (p = {p_value:.3g} > {alpha:g})")
    if paired.metric == "mean_absolute_error" and paired.after > paired.before:
        problems.append("its mean absolute error is larger")
    worse = [str(item.label) for item in classes if item.worse]
    if worse:
        problems.append(f"it is worse on class {', '.join(worse)}")
    if challenger.over_budget:
        problems.append(f"it does not fit the device: {challenger.over_budget}")
    if not challenger.gate.passed:
        problems.append(f"its quantization was not accepted: {challenger.gate.reason}")
    return problems


def _sentence(
    paired: _Paired, p_value: float, problems: Sequence[str], classes: Sequence[ClassOutcome]
) -> str:
    verdict = "the challenger is refused" if problems else "the challenger is accepted"
    if paired.metric == "accuracy":
        scores = f"{paired.before:.1%} and the challenger {paired.after:.1%} accuracy"
        test = "exact McNemar"
    else:
        scores = f"{paired.before:.4g} and the challenger {paired.after:.4g} mean absolute error"
        test = "sign test"
    numbers = f"on {len(paired.won)} labelled field rows the champion has {scores}, {test} p = "
    unproven = [str(item.label) for item in classes if not (item.shown_safe or item.worse)]
    caveat = (
        f"; too few rows to rule out a loss of {CLASS_MARGIN:.0%} on class {', '.join(unproven)}"
        if unproven
        else ""
    )
    because = f" because {' and '.join(problems)}" if problems else ""
    return f"{verdict}{because}: {numbers}{p_value:.2g}{caveat}"
