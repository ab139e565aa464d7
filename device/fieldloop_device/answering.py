"""One input in, one answer out, as programs outside Python read it."""

from typing import Any

import msgspec

from fieldloop.codec import Prediction
from fieldloop.errors import EnvironmentFaultError, FieldloopError, InputError
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


def shown(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain data."""
    return {
        "label": prediction.label,
        "value": prediction.value,
        "confidence": prediction.confidence,
        "probabilities": prediction.probabilities,
        **({"targets": msgspec.to_builtins(prediction.targets)} if prediction.targets else {}),
    }
