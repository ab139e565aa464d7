"""Learning curves: the error of extrapolating, against taking the last value.

    python tools/bench/curves.py [--repeats 20]

Writes `tools/bench/curves.md`. Each curve is measured on scikit-learn's sets; the forms see sizes
up to a share of the rows and say the error with all of them, which was measured as well.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import make_classification, make_friedman1
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from fieldloop.errors import GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.select.curves import measure, paired_errors
from fieldloop_cloud.select.extrapolation import MIN_ANCHORS, extrapolate

RESULTS = Path(__file__).parent / "curves.md"
SHARES = (0.25, 0.5)


def scorer(build: Callable[[], Any]) -> Callable[[Dataset, Dataset], float]:
    """Return what fits a model on one data set and scores it on another."""

    def score(train: Dataset, rest: Dataset) -> float:
        model = make_pipeline(StandardScaler(), build())
        return float(model.fit(train.flat, train.y).score(rest.flat, rest.y))

    return score


def cases() -> Iterator[tuple[str, Dataset, Callable[[Dataset, Dataset], float]]]:
    """Yield 20 curves: name, data and what fits and scores."""
    classifiers: dict[str, Callable[[], Any]] = {
        "logistic": lambda: LogisticRegression(max_iter=1000),
        "forest": lambda: RandomForestClassifier(30, random_state=0),
        "svm": SVC,
        "k-nn": KNeighborsClassifier,
        "naive bayes": lambda: GaussianNB(var_smoothing=1e-3),
    }
    regressors: dict[str, Callable[[], Any]] = {
        "ridge": Ridge,
        "forest": lambda: RandomForestRegressor(30, random_state=0),
        "k-nn": KNeighborsRegressor,
        "svm": lambda: SVR(C=10.0),
    }
    made = make_classification(1500, 20, n_informative=8, n_classes=3, random_state=0)
    sets = {name: Dataset.load(f"sklearn:{name}") for name in ("digits", "breast_cancer", "wine")}
    sets["generated"] = from_arrays(*made, name="generated")
    wanted = {
        "digits": ("logistic", "forest", "svm", "k-nn", "naive bayes"),
        "breast_cancer": ("logistic", "forest", "svm", "k-nn"),
        "wine": ("forest", "k-nn"),
        "generated": ("logistic", "forest", "svm", "k-nn"),
    }
    for data, models in wanted.items():
        for model in models:
            yield f"{data}, {model}", sets[data], scorer(classifiers[model])
    diabetes = Dataset.load("sklearn:diabetes")
    friedman = from_arrays(
        *make_friedman1(800, noise=1.0, random_state=0), name="friedman", task="regression"
    )
    for data, model in (
        ("diabetes", "ridge"),
        ("friedman", "forest"),
        ("friedman", "k-nn"),
        ("friedman", "svm"),
        ("friedman", "ridge"),
    ):
        yield (
            f"{data}, {model}",
            {"diabetes": diabetes, "friedman": friedman}[data],
            scorer(regressors[model]),
        )


def main() -> None:
    """Measure every curve, extrapolate and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="where measured curves are kept for another run")
    options = parser.parse_args()
    rows: list[str] = []
    gaps: dict[float, tuple[list[float], list[float]]] = {share: ([], []) for share in SHARES}
    inside = dict.fromkeys(SHARES, 0)
    for name, data, score in cases():
        kept = options.keep / f"{name}.npz" if options.keep else None
        if kept and kept.exists():
            sizes, errors = (np.load(kept)[key] for key in ("sizes", "errors"))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sizes, errors = measure(score, data, repeats=options.repeats, seed=1)
            if kept:
                np.savez(kept, sizes=sizes, errors=errors)
        truth, cells = float(errors[:, -1].mean()), []
        for share in SHARES:
            seen = sizes <= share * sizes[-1] + 1
            if seen.sum() < MIN_ANCHORS:
                cells.append("too few sizes")
                continue
            part = errors[:, seen]
            means, noise = part.mean(axis=0), paired_errors(part)
            try:
                found = extrapolate(sizes[seen].astype(float), means, noise)
            except GateError:
                cells.append("refused")
                continue
            said, low, high = found.error_at(float(sizes[-1]))
            gaps[share][0].append(abs(means[-1] - truth))
            gaps[share][1].append(abs(said - truth))
            inside[share] += low <= truth <= high
            cells.append(f"{said:.4f} [{low:.4f}, {high:.4f}]; last {means[-1]:.4f}")
        rows.append(f"| {name} | {truth:.4f} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    lines = [
        "# Learning curves, extrapolated",
        "",
        "Error with all rows: measured, and as said from a part of them (95 % band; the last value",
        "seen). Made by `tools/bench/curves.py`.",
        "",
        "| curve | measured | from 25 % | from 50 % |",
        "|---|---|---|---|",
        *rows,
        "",
        "| seen | curves | last value: error | extrapolated: error | ratio | truth in the band |",
        "|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        last, ours = (float(np.mean(values)) for values in gaps[share])
        count = len(gaps[share][0])
        lines.append(
            f"| {share:.0%} | {count} | {last:.4f} | {ours:.4f} | {ours / last:.2f} | "
            f"{inside[share]} of {count} |"
        )
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-4:]))


if __name__ == "__main__":
    main()
