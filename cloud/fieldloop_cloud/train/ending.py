"""The end of a run: the test set is opened once, and all that the field needs is frozen."""

import importlib.metadata
import platform
from dataclasses import dataclass

import numpy as np

from fieldloop.manifest import Lineage, Precision
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.facts import facts
from fieldloop_cloud.data.seal import SealedTest
from fieldloop_cloud.data.split import Split
from fieldloop_cloud.select.scored import Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.evidence import evidence_on
from fieldloop_cloud.train.measure import Answers, answers
from fieldloop_cloud.train.metrics import Estimate, confusion, estimate, estimates
from fieldloop_cloud.train.reference import golden_set, reference_profile
from fieldloop_cloud.train.run import Run, SplitRecord, shippable


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """What the trials left behind.

    Attributes:
        data: The whole data set.
        split: Its parts.
        bench: What the trials shared.
        front: Every measured variant.
        skipped: What is not in it.
        baseline: The dummy model's score.
    """

    data: Dataset
    split: Split
    bench: Bench
    front: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]
    baseline: Estimate

    def run(self, chosen: Scored, why: str) -> Run:
        """Open the test set for every variant that may ship, and put the run together."""
        bench = self.bench
        sealed = SealedTest(self.data.take(self.split.test))
        test = sealed.open("the final evaluation of the chosen candidate")
        ship = shippable(self.front, chosen)
        said = {item.precision: _answers(item, test) for item in ship}
        scores: dict[Precision, tuple[Estimate, ...]] = {
            precision: estimates(test.task, test.y, given.predicted, seed=bench.seed)
            for precision, given in said.items()
        }
        held_out = chosen.held_out or _answers(chosen, bench.validation)
        return Run(
            data=self.data.name,
            data_sha256=self.data.sha256,
            task=self.data.task,
            device=bench.target.name,
            metric=bench.metric,
            seed=bench.seed,
            split=self._split_record(),
            baseline=self.baseline,
            why=why,
            test=scores,
            confusion=_confusion(test, said[chosen.precision]),
            skipped=self.skipped,
            openings=sealed.openings,
            sealed=evidence_on(test, said[chosen.precision], self.split.test, seed=bench.seed),
            notes=(*self.data.notes, *facts(self.data).warnings),
            tools=tool_versions(),
            front=tuple(sorted(self.front, key=lambda item: -item.score)),
            chosen=chosen,
            profile=reference_profile(
                chosen.compiled.signature,
                bench.train.X,
                held_out,
                bench.validation.y.astype(np.int64) if self.data.labels else None,
            ),
            golden=tuple(
                golden_set(item.compiled, bench.validation.X, seed=bench.seed) for item in ship
            ),
            lineage=self._lineage(chosen, ship, scores[chosen.precision]),
        )

    def _split_record(self) -> SplitRecord:
        return SplitRecord(
            train_count=len(self.split.train),
            validation_count=len(self.split.validation),
            test_count=len(self.split.test),
            sha256=self.split.sha256,
            strategy=self.split.strategy,
            kept=self.split.kept,
            fold_count=len(self.split.folds),
            left_out_count=len(self.split.left_out),
            notes=self.split.notes,
        )

    def _lineage(
        self, chosen: Scored, ship: tuple[Scored, ...], test: tuple[Estimate, ...]
    ) -> Lineage:
        metric = self.bench.metric
        final = next(item for item in test if item.metric == metric)
        calibrated = [item.calibration_sha256 for item in ship if item.calibration_sha256]
        gates = {f"precision {item.precision}": item.gate.reason for item in ship}
        gates["baseline"] = (
            f"validation {metric} {chosen.score:.4f} (from {chosen.score_low:.4f}) against the "
            f"dummy model's {self.baseline.value:.4f}"
        )
        gates["test"] = (
            f"{metric} {final.value:.4f} [{final.low:.4f}, {final.high:.4f}] on "
            f"{final.row_count} sealed rows"
        )
        return Lineage(
            data_sha256=self.data.sha256,
            split_sha256=self.split.sha256,
            calibration_sha256=calibrated[0] if calibrated else "",
            candidate=chosen.candidate,
            parameters=chosen.parameters,
            metric=metric,
            gate=gates,
            tools=tool_versions(),
        )


def _answers(scored: Scored, rows: Dataset) -> Answers:
    return answers(scored.compiled.tflite, scored.compiled.signature, rows.X)


def _confusion(test: Dataset, said: Answers) -> tuple[tuple[int, ...], ...]:
    if not test.labels:
        return ()
    counted = confusion(test.y.astype(np.int64), said.predicted, len(test.labels))
    return tuple(tuple(int(n) for n in row) for row in counted)


def dummy_score(bench: Bench) -> Estimate:
    """Score the model that always says the commonest class, or the mean, on validation rows."""
    train, truth = bench.train, bench.validation.y
    if train.task == "classification":
        constant = int(np.bincount(train.y.astype(np.int64)).argmax())
        return estimate(bench.metric, truth, np.full(len(truth), constant), seed=bench.seed)
    mean = np.full(len(truth), float(train.y.mean()))
    return estimate(bench.metric, truth, mean, seed=bench.seed)


def tool_versions() -> dict[str, str]:
    """Return the versions of what has a part in a model; nothing is imported for it."""
    names = ("fieldloop-cloud", "numpy", "scikit-learn", "ai-edge-litert", "tensorflow", "keras")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
