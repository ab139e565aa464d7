"""One input in, one answer out, as programs outside Python read it."""

from typing import Any

import msgspec

from fieldloop.codec import Prediction
from fieldloop.errors import (
    EnvironmentFaultError,
    FieldloopError,
    InputError,
    SignatureError,
)
from fieldloop_device.agent import Agent
from fieldloop_device.sources.source import Item


def answer(agent: Agent, item: Item) -> dict[str, Any]:
    """Let the agent answer an item; what is wrong with it is the answer then.

    An input that cannot be read is counted; a source that has lost its device is an event.

    Returns:
        `id`, and either `label`, `value`, `confidence`, `probabilities`, `model` and `latency_ms`,
        or `error`. The item keeps it too.
    """
    if item.error is not None:
        if isinstance(item.error, EnvironmentFaultError):
            agent.announce("source-failed", str(item.error))
        else:
            agent.reject()
        item.answer = {"id": item.id, "error": item.error.as_dict()}
        return item.answer
    try:
        _check_booleans(agent, item.raw)
    except FieldloopError as error:
        agent.reject()
        item.is_refused = True
        item.answer = {"id": item.id, "error": error.as_dict()}
        return item.answer
    try:
        prediction = agent.predict(item.raw, input_id=item.id)
    except FieldloopError as error:
        item.is_refused = isinstance(error, InputError)
        item.answer = {"id": item.id, "error": error.as_dict()}
        return item.answer
    item.answer = {
        "id": item.id,
        **shown(prediction),
        "model": agent.running_sha256,
        "latency_ms": prediction.latency_ms,
    }
    return item.answer


def _check_booleans(agent: Agent, raw: object) -> None:
    """See that no `true` of a JSON text stands where a number or another category belongs.

    To Python `True` is the number 1, so nothing further down would notice.

    Raises:
        SignatureError: Names the feature.
    """
    runtime = agent.serving.runtime
    if runtime is None or not isinstance(raw, dict | list):
        return
    features = runtime.signature.features
    cells = (
        [(feature, raw.get(feature.name)) for feature in features]
        if isinstance(raw, dict)
        else zip(features, raw, strict=False)
    )
    for feature, value in cells:
        is_known = any(category is value for category in feature.categories)
        if isinstance(value, bool) and not is_known:
            raise SignatureError(
                f"{str(value).lower()} came where "
                + ("another category" if feature.categories else "a number")
                + " belongs",
                where=f"feature '{feature.name}'",
                advice="Write 1 or 0 for a number, or the category as it was in training.",
            )


def shown(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain data."""
    return {
        "label": prediction.label,
        "value": prediction.value,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        **({"targets": msgspec.to_builtins(prediction.targets)} if prediction.targets else {}),
    }
