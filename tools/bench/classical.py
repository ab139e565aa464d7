"""Classical models: fieldloop beside skl2onnx + onnxruntime, Hummingbird and scikit-learn itself.

Each model is fitted once, and every contender gets that same model. Contenders are timed in turns,
burst by burst, so that what else the machine does hits all of them; what is shown are medians over
single calls on one thread. Prints Markdown tables; `run.py` calls it.

The largest deviation is that of a probability from scikit-learn's on the same rows; an int8 model
is given the quantized rows, so its deviation is that of the quantization.

    python tools/bench/classical.py .venv-peers/bin/python .venv-peers-hummingbird/bin/python
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

HERE = Path(__file__).parent
ROUNDS = 9
BATCH = 1000
OURS = ("fieldloop float32", "fieldloop int8", "scikit-learn")
PEERS = ("skl2onnx + onnxruntime", "Hummingbird")
DATA: dict[str, Callable[..., Any]] = {"digits": load_digits, "breast_cancer": load_breast_cancer}
MODELS: dict[str, Callable[[], Any]] = {
    "random forest, 100 x depth 10": lambda: RandomForestClassifier(
        100, max_depth=10, random_state=0
    ),
    "scaler + RBF SVM": lambda: make_pipeline(StandardScaler(), SVC(C=10)),
    "scaler + logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "histogram boosting, 50 rounds": lambda: HistGradientBoostingClassifier(
        max_iter=50, random_state=0
    ),
}


class Worker:
    """`worker.py` in some environment."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        """Return the answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker died at {request}")
        return json.loads(line)

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        contender: Its name.
        size_bytes: Of its file; None if it has none.
        one_row_us: Median latency of one row.
        batch_ms: Median latency of `BATCH` rows.
        label_changes: Rows whose label is not scikit-learn's.
        deviation: Largest deviation of a probability; None without probabilities.
        unavailable: Why there is nothing to show.
    """

    contender: str
    size_bytes: int | None = None
    one_row_us: float = np.nan
    batch_ms: float = np.nan
    label_changes: int = 0
    deviation: float | None = None
    unavailable: str = ""


def measure(case: Path, workers: dict[str, Worker]) -> list[Result]:
    """Build every contender on one case and time them in turns."""
    answers = {
        name: worker.ask(do="build", contender=name, case=str(case))
        for name, worker in workers.items()
    }
    running = [name for name in workers if "unavailable" not in answers[name]]
    latency: dict[tuple[str, int], list[float]] = {
        (name, rows): [] for name in running for rows in (1, BATCH)
    }
    for _ in range(ROUNDS):
        for name, rows in latency:
            answer = workers[name].ask(do="time", contender=name, row_count=rows)
            latency[name, rows] += answer["latency_us"]
    results = []
    for name in workers:
        if name not in running:
            results.append(Result(name, unavailable=answers[name]["unavailable"]))
            continue
        changes, deviation = _compared(answers[name], answers["scikit-learn"])
        results.append(
            Result(
                contender=name,
                size_bytes=answers[name]["size_bytes"],
                one_row_us=float(np.median(latency[name, 1])),
                batch_ms=float(np.median(latency[name, BATCH])) / 1000,
                label_changes=changes,
                deviation=deviation,
            )
        )
    return results


def _compared(answer: Any, original: Any) -> tuple[int, float | None]:
    changes = sum(a != b for a, b in zip(answer["labels"], original["labels"], strict=True))
    if answer["probabilities"] is None or original["probabilities"] is None:
        return changes, None
    ours, theirs = (np.array(a["probabilities"]) for a in (answer, original))
    return changes, float(np.abs(ours - theirs).max())


def table(title: str, results: list[Result], rows: int) -> str:
    """Return one case as Markdown."""
    lines = [
        f"**{title}** ({rows} held-out rows)\n",
        f"| | size | 1 row | {BATCH} rows | labels changed | largest deviation |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        if result.unavailable:
            lines.append(f"| {result.contender} | | | | {result.unavailable[:80]} | |")
            continue
        size = "" if result.size_bytes is None else f"{result.size_bytes / 1000:,.1f} kB"
        deviation = "" if result.deviation is None else f"{result.deviation:.0e}"
        lines.append(
            f"| {result.contender} | {size} | {result.one_row_us:,.1f} µs | "
            f"{result.batch_ms:,.2f} ms | {result.label_changes} | {deviation} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print all tables."""
    ours = Worker(sys.executable)
    peers = {name: Worker(python) for name, python in zip(PEERS, sys.argv[1:], strict=True)}
    workers = dict.fromkeys(OURS, ours) | peers
    with tempfile.TemporaryDirectory() as folder:
        for data_name, load in DATA.items():
            X, y = load(return_X_y=True)
            train, test, target, _ = train_test_split(
                X.astype(np.float32), y, test_size=0.3, random_state=0, stratify=y
            )
            for model_name, make in MODELS.items():
                title = f"{data_name}, {model_name}"
                print(f"{title} ...", file=sys.stderr, flush=True)
                case = Path(folder) / "case.joblib"
                model = make().fit(train, target)
                joblib.dump({"model": model, "train": train, "test": test}, case)
                print(table(title, measure(case, workers), len(test)), flush=True)
    for worker in (ours, *peers.values()):
        worker.close()


if __name__ == "__main__":
    main()
