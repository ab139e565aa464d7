"""Builds and times one contender at a time; runs in the workspace's environment or the peers'.

Reads one JSON request a line from stdin, answers one JSON line on stdout:

    {"do": "build", "contender": "fieldloop float32", "case": "/path/case.joblib"}
        -> {"size_bytes": ..., "labels": [...], "probabilities": [[...]]} or {"unavailable": "why"}
    {"do": "time", "contender": "fieldloop float32", "row_count": 1} -> {"latency_us": [...]}

A case file holds `model` (fitted), `train` (rows to compile with) and `test` (float32 rows). It is
written by the bench itself, moments before. Everything runs on one thread.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np

BURST_S = 0.03
MAX_CALLS = 200


@dataclass
class Contender:
    """A built model.

    Attributes:
        run: From float32 rows to (labels, probabilities or None).
        size_bytes: Of the file that would be shipped; None if there is none.
        rows: What is timed, float32 (n, features).
    """

    run: Callable[[Any], Any]
    size_bytes: int | None
    rows: Any


def scikit_learn(case: dict[str, Any]) -> Contender:
    """The original."""
    model = case["model"]

    def run(rows: Any) -> Any:
        if not hasattr(model, "predict_proba"):
            return model.predict(rows), None
        probabilities = model.predict_proba(rows)
        return model.classes_[probabilities.argmax(axis=1)], probabilities

    return Contender(run, None, case["test"])


def fieldloop(precision: Any) -> Callable[[dict[str, Any]], Contender]:
    """fieldloop, run by the engine that devices use."""

    def build(case: dict[str, Any]) -> Contender:
        from fieldloop_cloud.compile.api import to_tflite  # noqa: PLC0415 - not in the peers' venv

        compiled = to_tflite(case["model"], example=case["train"], precision=precision)
        labels = np.array(compiled.signature.labels)
        names = [spec.name for spec in compiled.signature.outputs]
        encoded = compiled.codec.tensors(case["test"])[0]
        engine = compiled.engine

        def run(rows: Any) -> Any:
            outputs = dict(zip(names, engine.run([rows]), strict=True))
            return labels[outputs["label"]], outputs.get("probabilities")

        return Contender(run, len(compiled.tflite), encoded)

    return build


def onnx(case: dict[str, Any]) -> Contender:
    """skl2onnx's file, run by onnxruntime."""
    import onnxruntime  # noqa: PLC0415 - in the peers' environment only
    import skl2onnx  # noqa: PLC0415 - the same

    model, train = case["model"], case["train"].astype(np.float32)
    options = {"zipmap": False} if hasattr(model, "predict_proba") else {}
    file = skl2onnx.to_onnx(model, train[:1], options=options).SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    name, has_probabilities = session.get_inputs()[0].name, bool(options)

    def run(rows: Any) -> Any:
        labels, scores = session.run(None, {name: rows})
        return labels, scores if has_probabilities else None

    return Contender(run, len(file), case["test"])


def hummingbird(case: dict[str, Any]) -> Contender:
    """Hummingbird's tensor program, run by PyTorch; its size is that of its parameters."""
    import torch  # noqa: PLC0415 - in the peers' environment only
    from hummingbird.ml import convert  # noqa: PLC0415 - the same

    torch.set_num_threads(1)
    program = convert(case["model"], "torch")
    tensors = [*program.model.parameters(), *program.model.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    has_probabilities = hasattr(case["model"], "predict_proba")

    def run(rows: Any) -> Any:
        if not has_probabilities:
            return program.predict(rows), None
        probabilities = program.predict_proba(rows)
        return case["model"].classes_[probabilities.argmax(axis=1)], probabilities

    return Contender(run, size, case["test"])


BUILDERS: dict[str, Callable[[dict[str, Any]], Contender]] = {
    "fieldloop float32": fieldloop("float32"),
    "fieldloop int8": fieldloop("int8"),
    "skl2onnx + onnxruntime": onnx,
    "Hummingbird": hummingbird,
    "scikit-learn": scikit_learn,
}


def build(name: str, path: str) -> tuple[Contender | None, dict[str, Any]]:
    """Return the contender and the answer about it; a peer that fails is a result, not an error."""
    case = joblib.load(path)
    try:
        made = BUILDERS[name](case)
        labels, probabilities = made.run(made.rows)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        return None, {"unavailable": f"{type(error).__name__}: {error}".splitlines()[0]}
    return made, {
        "size_bytes": made.size_bytes,
        "labels": np.asarray(labels).ravel().tolist(),
        "probabilities": None if probabilities is None else np.asarray(probabilities).tolist(),
    }


def burst(contender: Contender, row_count: int) -> list[float]:
    """Time single calls for a moment, in microseconds; the first one only warms up."""
    repeats = -(-row_count // len(contender.rows))
    rows = np.ascontiguousarray(np.concatenate([contender.rows] * repeats)[:row_count])
    contender.run(rows)
    latency_us: list[float] = []
    end = time.perf_counter() + BURST_S
    while len(latency_us) < MAX_CALLS and (time.perf_counter() < end or not latency_us):
        start = time.perf_counter()
        contender.run(rows)
        latency_us.append((time.perf_counter() - start) * 1e6)
    return latency_us


def main() -> None:
    """Serve until stdin closes."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is not an answer
    built: dict[str, Contender] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["contender"]
        if request["do"] == "build":
            made, answer = build(name, request["case"])
            if made is not None:
                built[name] = made
        else:
            answer = {"latency_us": burst(built[name], request["row_count"])}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
