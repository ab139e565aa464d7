"""What a criterion says about one model: a value with its source, or why it does not apply."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from fieldloop.errors import ConfigError

CriterionName = Literal[
    "AIC", "AICc", "BIC", "TIC", "SRM bound", "radius-margin bound", "hold-out bound", "CV"
]

SOURCES: dict[CriterionName, str] = {
    "AIC": "Akaike, IEEE Transactions on Automatic Control 19 (1974), 716-723",
    "AICc": "Hurvich and Tsai, Biometrika 76 (1989), 297-307",
    "BIC": "Schwarz, Annals of Statistics 6 (1978), 461-464",
    "TIC": "Takeuchi, Suri-Kagaku 153 (1976), 12-18",
    "SRM bound": "Vapnik, The Nature of Statistical Learning Theory (1995), chapter 3",
    "radius-margin bound": "Vapnik and Chapelle, Neural Computation 12 (2000), 2013-2036",
    "hold-out bound": "Hoeffding, JASA 58 (1963), 13-30, over a finite class",
    "CV": "Nadeau and Bengio, Machine Learning 52 (2003), 239-281",
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="value"):
    """A criterion's value for one model; less is better, except for CV.

    Attributes:
        name: The criterion.
        family: What it may be compared within: only values of one name and family, on the same
            rows, have a meaning side by side.
        value: In the criterion's own unit: twice a negative log likelihood, an error bound, or
            the metric of a cross-validation.
        note: What to make of it: degrees of freedom, a standard error, or that it is vacuous.
    """

    name: CriterionName
    family: str
    value: float
    note: str = ""

    @property
    def source(self) -> str:
        """Where the formula is from."""
        return SOURCES[self.name]


class NotApplicable(msgspec.Struct, frozen=True, kw_only=True, tag="not applicable"):
    """Why a criterion has no meaning for a model.

    Attributes:
        name: The criterion.
        family: The model's family.
        reason: One sentence.
    """

    name: CriterionName
    family: str
    reason: str


Assessment = Verdict | NotApplicable


def refused(names: Iterable[CriterionName], family: str, reason: str) -> list[Assessment]:
    """Refuse several criteria for one reason."""
    return [NotApplicable(name=name, family=family, reason=reason) for name in names]


def best(verdicts: dict[str, Verdict]) -> str:
    """Return the model with the best value.

    Args:
        verdicts: By the model's name.

    Raises:
        ConfigError: Values of different criteria or families, which must not be compared.
    """
    kinds = {(item.name, item.family) for item in verdicts.values()}
    if len(kinds) != 1:
        listed = ", ".join(sorted(f"{name} of {family}" for name, family in kinds)) or "nothing"
        raise ConfigError(
            f"{listed} cannot be ranked together",
            advice="Rank one criterion within one family, and compare families by validation.",
        )
    (name, _), *_ = kinds
    sign = -1 if name == "CV" else 1
    return min(verdicts, key=lambda model: sign * verdicts[model].value)
