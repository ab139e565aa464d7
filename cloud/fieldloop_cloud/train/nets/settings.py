"""How a net is trained: one frozen struct, checked before TensorFlow is started."""

from typing import Literal, Self

import msgspec

from fieldloop.errors import ConfigError

Objective = Literal["auto", "cross_entropy", "binary_cross_entropy", "focal", "mse", "mae", "huber"]
OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"]
ScheduleName = Literal["constant", "cosine", "exponential", "step", "plateau"]
Policy = Literal["float32", "mixed_float16", "mixed_bfloat16"]
Strategy = Literal["single", "mirrored", "multi_worker"]

CLASS_OBJECTIVES = ("cross_entropy", "binary_cross_entropy", "focal")
VALUE_OBJECTIVES = ("mse", "mae", "huber")


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much training rows are varied, each time they are seen; 0 is not at all.

    Attributes:
        shift: Images: largest shift, as a share of height and width. Windows: of the steps,
            the ends wrapping round.
        rotation_degrees: Images: largest rotation.
        zoom: Images: largest change of size, as a share.
        contrast: Images: largest change of contrast, as a share.
        flip: Images: half of them are mirrored left to right; only where that keeps the class.
        noise: Standard deviation of what is added to each value, in units of the training rows'
            standard deviation (windows: of each channel).
        scaling: Windows: largest change of a window's amplitude, as a share.
        crop: Windows: largest share cut off, the rest being stretched to the full length.
    """

    shift: float = 0.0
    rotation_degrees: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    flip: bool = False
    noise: float = 0.0
    scaling: float = 0.0
    crop: float = 0.0


class NetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a net is trained.

    Attributes:
        objective: What is minimised. `auto`: `cross_entropy` (log loss over softmax) for classes,
            `mse` for values. `binary_cross_entropy` gives two classes one sigmoid. Values are
            standardised while training, so `huber_delta` is in standard deviations.
        label_smoothing: Share of the truth spread over all classes.
        focal_gamma: How strongly `focal` turns from easy rows (Lin et al., 2017).
        huber_delta: Where `huber` turns from squares to absolute values.
        class_weights: `balanced` (as scikit-learn), one weight a class, or None.
        optimizer: One of Adam, AdamW, SGD, RMSprop, AdaGrad.
        learning_rate: At its highest.
        momentum: Of SGD and RMSprop; None for 0.9 and 0.
        nesterov: Whether SGD's momentum looks ahead.
        weight_decay: Of AdamW.
        clip_norm: Gradients longer than this together are shortened to it; None leaves them.
        schedule: How the learning rate falls: not, along a cosine to zero, by `decay` every
            epoch, by `decay` every `decay_epochs`, or by `decay` after `decay_epochs` without
            improvement.
        decay: Factor of `exponential`, `step` and `plateau`; None for 0.95, 0.5 and 0.5.
        decay_epochs: Of `step` and `plateau`; None for a third of the epochs, and half the
            patience.
        warmup_epochs: The rate rises from 0 over so many epochs first.
        epochs: Most epochs.
        batch_size: Rows per step, over all replicas.
        patience: Epochs without improvement of the held-out loss before stopping.
        augmentation: How rows are varied; None not at all.
        policy: Keras' precision while training; what is saved is float32.
        strategy: `mirrored` over the devices of this machine, `multi_worker` over machines (see
            `nets.strategy`).
        logical_devices: Splits the processor into so many devices for `mirrored`; 0 leaves it.
        memory_limit_bytes: What training may take on top of TensorFlow itself; None: no limit.
        tensorboard_dir: Where TensorBoard's logs go; None: nowhere.
    """

    objective: Objective = "auto"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    huber_delta: float = 1.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    optimizer: OptimizerName = "adam"
    learning_rate: float = 1e-3
    momentum: float | None = None
    nesterov: bool = False
    weight_decay: float = 4e-3
    clip_norm: float | None = None
    schedule: ScheduleName = "constant"
    decay: float | None = None
    decay_epochs: int | None = None
    warmup_epochs: float = 0.0
    epochs: int = 15
    batch_size: int = 32
    patience: int = 4
    augmentation: Augmentation | None = None
    policy: Policy = "float32"
    strategy: Strategy = "single"
    logical_devices: int = 0
    memory_limit_bytes: int | None = None
    tensorboard_dir: str | None = None

    def resolved(self, classes: int) -> Self:
        """Return settings for a number of classes (0: a regression), with nothing left `auto`.

        Raises:
            ConfigError: A value out of range, or an objective for another task; names it.
        """
        objective = self.objective
        if objective == "auto":
            objective = "cross_entropy" if classes else "mse"
        fitting = CLASS_OBJECTIVES if classes else VALUE_OBJECTIVES
        if objective not in fitting:
            raise ConfigError(
                f"'{objective}' is no objective for {'classes' if classes else 'values'}",
                where="objective",
                advice=f"Use one of {', '.join(fitting)}.",
            )
        self._check(classes, objective)
        usual = 0.95 if self.schedule == "exponential" else 0.5
        waits = self.epochs // 3 if self.schedule == "step" else self.patience // 2
        return msgspec.structs.replace(
            self,
            objective=objective,
            momentum=self._momentum,
            decay=usual if self.decay is None else self.decay,
            decay_epochs=max(1, waits) if self.decay_epochs is None else self.decay_epochs,
        )

    @property
    def _momentum(self) -> float:
        if self.momentum is None:
            return 0.9 if self.optimizer == "sgd" else 0.0
        return self.momentum

    def _check(self, classes: int, objective: str) -> None:
        weights = self.class_weights
        wrong = {
            "label_smoothing": not 0 <= self.label_smoothing < 1,
            "focal_gamma": not self.focal_gamma >= 0,
            "huber_delta": not self.huber_delta > 0,
            "class_weights": weights is not None
            and (not classes or (weights != "balanced" and not _are_weights(weights, classes))),
            "learning_rate": not 0 < self.learning_rate < 1000,  # noqa: PLR2004 - a slip
            "momentum": not 0 <= self._momentum < 1,
            "nesterov": self.nesterov and (self.optimizer != "sgd" or not self._momentum),
            "weight_decay": not self.weight_decay >= 0,
            "clip_norm": self.clip_norm is not None and not self.clip_norm > 0,
            "decay": self.decay is not None and not 0 < self.decay < 1,
            "decay_epochs": self.decay_epochs is not None and self.decay_epochs < 1,
            "warmup_epochs": not 0 <= self.warmup_epochs < max(self.epochs, 1),
            "epochs": self.epochs < 1,
            "batch_size": self.batch_size < 1,
            "patience": self.patience < 1,
            "objective": objective == "binary_cross_entropy" and classes != 2,  # noqa: PLR2004 - two classes
            "logical_devices": self.logical_devices < 0
            or (self.logical_devices > 0 and self.strategy != "mirrored"),
            # Keras' loss scaling does not work inside a replica.
            "policy": self.policy == "mixed_float16" and self.strategy != "single",
            "memory_limit_bytes": self.memory_limit_bytes is not None
            and self.memory_limit_bytes < 1,
        }
        named = [name for name, failed in wrong.items() if failed]
        if named:
            raise ConfigError(
                f"these settings cannot be right: "
                f"{', '.join(f'{name}={getattr(self, name)!r}' for name in named)}",
                where="NetSettings",
                advice="See the documentation of each for its range and what it goes with.",
            )


def _are_weights(weights: tuple[float, ...] | str, classes: int) -> bool:
    return (
        not isinstance(weights, str)
        and len(weights) == classes
        and all(weight >= 0 for weight in weights)
        and sum(weights) > 0
    )
