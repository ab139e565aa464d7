"""The candidates: one module a family, each a few declarations.

The portfolio is short on purpose: a few settings that are strong on most data beat a search on
small budgets. What a search varies stands beside it.
"""

from fieldloop.errors import ConfigError
from fieldloop_cloud.select.candidates import kernels, linear, nets, transfer, trees
from fieldloop_cloud.select.candidates.candidate import Candidate
from fieldloop_cloud.select.candidates.space import Settings

CANDIDATES: tuple[Candidate, ...] = (
    linear.LOGISTIC,
    linear.DISCRIMINANT,
    linear.NAIVE_BAYES,
    linear.RIDGE,
    linear.ELASTIC_NET,
    kernels.NEAREST,
    trees.TREE,
    kernels.SVM_RBF,
    kernels.SVM_LINEAR,
    kernels.SVM_POLY,
    trees.RANDOM_FOREST,
    trees.EXTRA_TREES,
    trees.BOOSTING,
    nets.PERCEPTRON,
    transfer.FEATURES,
    nets.CNN,
    nets.CNN1D,
    nets.GRU,
    transfer.FINE_TUNED,
)
"""Every candidate, the cheapest to train first."""


def portfolio(names: tuple[str, ...] | None = None) -> tuple[Candidate, ...]:
    """Return candidates, the cheapest to train first.

    Args:
        names: Only these; None for all.

    Raises:
        ConfigError: A name that is not known.
    """
    if names is None:
        return CANDIDATES
    known = {candidate.name: candidate for candidate in CANDIDATES}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"there is no candidate {', '.join(unknown)}" if unknown else "no candidate is named",
            advice=f"Use some of: {', '.join(known)}.",
        )
    return tuple(candidate for candidate in CANDIDATES if candidate.name in names)


__all__ = ["CANDIDATES", "Candidate", "Settings", "portfolio"]
