"""What is trained when: first the head on a frozen backbone, then the backbone's upper stages.

Earlier stages hold more general features and learn more slowly (Howard and Ruder, ULMFiT, 2018).
Batch normalization stays frozen, that is in inference mode, in both phases: the statistics of a few
rows would spoil what it knows.
"""

from dataclasses import dataclass, field
from typing import Any

from fieldloop.errors import ConfigError
from fieldloop_cloud.train.phase import Phase
from fieldloop_cloud.train.transfer.pixels import LAYER
from fieldloop_cloud.train.transfer.plan import ALL, NOTHING, TransferPlan
from fieldloop_cloud.train.transfer.stages import stages

BACKBONE = "backbone"
"""Name of the layer that is the whole backbone."""


def transfer_phases(plan: TransferPlan, epochs: int, learning_rate: float) -> tuple[Phase, ...]:
    """Return the phases of a plan, in order; each is early stopped by itself.

    Args:
        plan: The plan.
        epochs: Most epochs of a phase.
        learning_rate: Of the head; the backbone's is a share of it.
    """
    if plan.weights is None:
        return (_phase("all", epochs, learning_rate, _Thaw(ALL)),)
    head = _phase("head", epochs, learning_rate, _Thaw(NOTHING))
    if plan.fine_tune == NOTHING:
        return (head,)
    thaw = _Thaw(plan.fine_tune, plan.stage_decay, is_pretrained=True)
    return head, _phase("fine-tune", epochs, learning_rate * plan.fine_tune_rate, thaw)


def _phase(name: str, epochs: int, learning_rate: float, thaw: "_Thaw") -> Phase:
    return Phase(name, epochs, learning_rate, thaw.prepare, thaw.rate_of)


@dataclass(slots=True)
class _Thaw:
    """Freezes and thaws the layers of a built model, and knows how fast each variable learns.

    Attributes:
        trains: The first stage that is trained, `all` or `nothing`.
        stage_decay: Factor on the learning rate for each stage further from the head.
        is_pretrained: Whether batch normalization is left as it came.
        rates: Factors by a variable's path, once a model was prepared.
    """

    trains: str
    stage_decay: float = 1.0
    is_pretrained: bool = False
    rates: dict[str, float] = field(default_factory=dict)

    def prepare(self, model: Any) -> None:
        """Set what is trainable.

        Raises:
            ConfigError: The backbone has no such stage.
        """
        backbone = model.get_layer(BACKBONE)
        factors = self._factors(backbone)
        model.trainable = True
        model.get_layer(LAYER).trainable = False
        self.rates.clear()
        for layer, factor in zip(backbone.layers, factors, strict=True):
            is_normalization = type(layer).__name__ == "BatchNormalization"
            layer.trainable = factor > 0 and not (is_normalization and self.is_pretrained)
            for variable in layer.trainable_variables:
                # Keras tells its own name for a variable, TensorFlow another one.
                self.rates[variable.path] = self.rates[_plain(variable.value.name)] = factor

    def rate_of(self, path: str) -> float:
        """Return the factor of a variable; 1 for the head's."""
        return self.rates.get(_plain(path), 1.0)

    def _factors(self, backbone: Any) -> list[float]:
        """Return the factor of each layer; 0 for a frozen one."""
        count = len(backbone.layers)
        if self.trains == NOTHING:
            return [0.0] * count
        ends = stages(backbone)
        names = [stage.name for stage in ends]
        if self.trains != ALL and self.trains not in names:
            raise ConfigError(
                f"the backbone has no stage '{self.trains}' to fine-tune from",
                where="fine_tune",
                advice=f"Use {', '.join(names)}, '{ALL}' or '{NOTHING}'.",
            )
        first = 0 if self.trains == ALL else names.index(self.trains)
        last = len(ends) - 1
        # The layers up to a stage's end belong to it; what follows the last end, to the last stage.
        places = [
            next((place for place, stage in enumerate(ends) if number <= stage.index), last)
            for number in range(count)
        ]
        return [self.stage_decay ** (last - p) if p >= first else 0.0 for p in places]


def _plain(name: str) -> str:
    return name.partition(":")[0]
