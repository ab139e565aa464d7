"""The compiled steps of the loop: learning from batches, and looking at held-out rows.

Only workers call this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldloop_cloud.train.nets.objectives import Loss
from fieldloop_cloud.train.nets.strategy import Replicas


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some steps: weighted losses, weights, and lengths of gradients."""

    loss: float
    weight: float
    norm: float


def learning(
    model: Any, losses: Loss, optimizer: Any, replicas: Replicas
) -> Callable[[Any, Any], Sums]:
    """Return what learns from the next batches: (iterator, one learning rate a step) -> sums."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    inner = getattr(optimizer, "inner_optimizer", optimizer)
    variables = model.trainable_variables
    strategy, count = replicas.strategy, replicas.count

    def learn(X: Any, y: Any, weights: Any) -> Any:
        context = tf.distribute.get_replica_context()
        mine = tf.reduce_sum(weights)
        total = context.all_reduce("SUM", mine)
        with tf.GradientTape() as tape:
            said = model(X, training=True)
            weighted = tf.reduce_sum(tf.cast(losses(y, said), tf.float32) * weights)
            loss = weighted / tf.maximum(total, 1e-12)
            if model.losses:
                loss += tf.add_n(model.losses) / count
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        gradients = [
            tf.zeros_like(v.value) if g is None else tf.convert_to_tensor(g)
            for g, v in zip(gradients, variables, strict=True)
        ]
        if count > 1:
            gradients = context.all_reduce("SUM", gradients)
        norm = tf.linalg.global_norm(gradients)
        if optimizer is not inner:
            # Loss scaling leaves out steps that overflow; they have no length.
            norm = tf.where(tf.math.is_finite(norm), norm / optimizer.dynamic_scale, 0.0)
        optimizer.apply(gradients, variables)
        return tf.stack([weighted, mine, norm / count])

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow ships no types
    def run(iterator: Any, rates: Any) -> Any:
        total = tf.zeros(3)
        for step in tf.range(tf.shape(rates)[0]):
            inner.learning_rate.assign(rates[step])
            sums = strategy.run(learn, args=next(iterator))
            total += strategy.reduce("SUM", sums, axis=None)
        return total

    def learn_from(iterator: Any, rates: Any) -> Sums:
        return Sums(*(float(v) for v in run(iterator, tf.constant(rates, tf.float32)).numpy()))

    return learn_from


def looking(model: Any, losses: Loss, *, is_classifier: bool) -> Callable[[Any], tuple[float, ...]]:
    """Return what looks at held-out batches: dataset -> (mean loss, accuracy or R²)."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    def row_scores(y: Any, said: Any) -> Any:
        if not is_classifier:
            return tf.square(tf.cast(y, tf.float32) - said[:, 0])
        if said.shape[1] == 1:
            chosen = tf.cast(said[:, 0] > 0.5, y.dtype)  # noqa: PLR2004 - a sigmoid's middle
        else:
            chosen = tf.argmax(said, axis=1, output_type=y.dtype)
        return tf.cast(chosen == y, tf.float32)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]  # TensorFlow ships no types
    def look(batches: Any) -> Any:
        total = tf.zeros(6)
        for X, y, weights in batches:
            said = model(X, training=False)
            weighted = tf.reduce_sum(tf.cast(losses(y, said), tf.float32) * weights)
            target = tf.cast(y, tf.float32)
            total += tf.stack(
                [
                    weighted,
                    tf.reduce_sum(weights),
                    tf.reduce_sum(row_scores(y, said)),
                    tf.cast(tf.shape(y)[0], tf.float32),
                    tf.reduce_sum(target),
                    tf.reduce_sum(tf.square(target)),
                ]
            )
        return total

    def looked(batches: Any) -> tuple[float, float]:
        weighted, weights, scores, rows, total, squares = look(batches).numpy().astype(np.float64)
        loss = float(weighted / max(weights, 1e-12))
        if is_classifier:
            return loss, float(scores / rows)
        return loss, float(1.0 - scores / max(squares - total**2 / rows, 1e-12))

    return looked
