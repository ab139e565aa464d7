"""Signed bundles of small models of every kind, made on this machine, and what they answer here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import fieldloop_cloud as fl
from fieldloop.manifest import Precision

ROWS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """A bundle, and the answers that are expected of it.

    Attributes:
        name: Model and precision.
        bundle: The signed file.
        rows: Raw inputs as JSON lines.
        labels: The compiled model's answers on this machine.
    """

    name: str
    bundle: Path
    rows: str
    labels: list[int]


def make_cases(home: Path) -> list[Case]:
    """Fit, compile and sign."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    train, held_out, truth, held_truth = train_test_split(X, y, random_state=0)
    made = []
    for name, model, precision in _models(train, truth):
        compiled = fl.to_tflite(model, example=train, precision=precision)
        slug = f"{name}-{precision}"
        written = fl.bundle(
            compiled,
            name=slug,
            home=home,
            device_classes=["pi4"],
            reference=held_out,
            truth=held_truth,
        )
        rows = held_out[:ROWS]
        said = [int(label) for label in compiled.run(rows)["label"]]
        lines = "".join(json.dumps({"x": row.tolist()}) + "\n" for row in rows)
        made.append(Case(slug, written.path, lines, said))
    return made


def _models(train: NDArray[np.float32], truth: NDArray[Any]) -> list[tuple[str, Any, Precision]]:
    forest = RandomForestClassifier(50, max_depth=8, random_state=0).fit(train, truth)
    boosted = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(train, truth)
    svm = make_pipeline(StandardScaler(), SVC()).fit(train, truth)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(train, truth)
    return [
        ("logistic", logistic, "int8"),
        ("forest", forest, "float32"),
        ("forest", forest, "int8"),
        ("boosting", boosted, "float32"),
        ("svm", svm, "float16"),
        ("svm", svm, "int8"),
    ]
