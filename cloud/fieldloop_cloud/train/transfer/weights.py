"""Where a backbone's weights come from, and whether they are its own. Runs in workers only.

Nothing of a file is executed: `.keras` is loaded in Keras' safe mode, of a SavedModel only the
variables are read. A donor's arrays must have the shapes of the backbone's, in its order.
"""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import (
    DataError,
    EnvironmentFaultError,
    FieldloopError,
    UnsupportedError,
)
from fieldloop_cloud.compile.worker import last_line
from fieldloop_cloud.train.transfer.backbone import damaged, files_of
from fieldloop_cloud.train.transfer.plan import (
    BACKBONE_FILE,
    IMAGENET,
    TransferPlan,
    read_facts,
)
from fieldloop_cloud.train.transfer.stages import cut_at

_VARIABLE = re.compile(r"variables/(\d+)/\.ATTRIBUTES/VARIABLE_VALUE")
"""A variable's key in a SavedModel's checkpoint, with its number in the order of the layers."""


def untrained(plan: TransferPlan) -> Any:
    """Return the whole member without its top, weights as drawn."""
    return _member(plan, None)


def weighted(plan: TransferPlan) -> Any:
    """Return the plan's backbone up to its cut, with its weights.

    Raises:
        ConfigError: There is no such cut, or no such weights.
        DataError: The file is damaged or holds another architecture.
        UnsupportedError: The file needs layers that are not loaded.
        EnvironmentFaultError: ImageNet weights are neither here nor to be downloaded.
    """
    if plan.weights is None:
        return cut_at(untrained(plan), plan.cut)
    if plan.weights == IMAGENET:
        return cut_at(_from_imagenet(plan), plan.cut)
    path = Path(plan.weights)
    files_of(path)
    facts = read_facts(path)
    if (path / BACKBONE_FILE).exists():
        path = path / BACKBONE_FILE
    if path.suffix == ".h5":
        return cut_at(_from_h5(plan, path), plan.cut)
    arrays = _variables(path) if path.is_dir() else _keras_arrays(path)
    # A donor of the whole member is taken whole: after a cut the order of layers may differ.
    net = untrained(plan)
    if _filled(net, arrays):
        return cut_at(net, plan.cut)
    own_cut = plan.cut if facts is None else facts.cut
    net = cut_at(net, own_cut)
    if _filled(net, arrays):
        return net if plan.cut == own_cut else cut_at(net, plan.cut)
    raise _another(plan, path, "their shapes differ")


def _member(plan: TransferPlan, weights: str | None) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    options: dict[str, Any] = {}
    if plan.family.has_width:
        options["alpha"] = plan.alpha
    if plan.minimalistic:
        options["minimalistic"] = True
    builder = getattr(keras.applications, plan.member)
    return builder(include_top=False, weights=weights, input_shape=plan.seen_shape, **options)


def _from_imagenet(plan: TransferPlan) -> Any:
    try:
        return _member(plan, IMAGENET)
    except Exception as error:  # whatever the download raises
        raise EnvironmentFaultError(
            f"ImageNet weights of {plan.member} are neither in Keras' cache nor to be "
            f"downloaded: {last_line(str(error))}",
            where="weights",
            advice="Connect to the network once, copy the file into ~/.keras/models from a "
            "machine that has it, or give weights=FILE (for example from "
            "`fieldloop pretrain`).",
        ) from error


def _from_h5(plan: TransferPlan, path: Path) -> Any:
    """Load `.weights.h5`, or the `.h5` that Keras Applications ships."""
    if not path.name.endswith(".weights.h5") and plan.family.module == "efficientnet":
        raise UnsupportedError(
            "EfficientNet's ImageNet file needs a scaling that only weights='imagenet' adds",
            where=str(path),
            advice="Copy it into ~/.keras/models and give weights='imagenet'.",
        )
    net = untrained(plan)
    try:
        net.load_weights(str(path))
    except OSError as error:
        raise damaged(path, last_line(str(error))) from error
    except Exception as error:  # Keras raises what it likes
        raise _another(plan, path, last_line(str(error))) from error
    return net


def _keras_arrays(path: Path) -> list[NDArray[Any]]:
    """Return the weights in a `.keras` file, in the order of its layers."""
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise damaged(path, last_line(str(error))) from error
    except Exception as error:  # Lambda, unknown classes: Keras raises ValueError and TypeError
        raise UnsupportedError(
            f"the file cannot be loaded in safe mode: {_reason(str(error))}",
            where=str(path),
            advice="Save a backbone of Keras' own layers, without Lambda and custom layers.",
        ) from error
    return [np.asarray(weight) for weight in model.get_weights()]


def _variables(path: Path) -> list[NDArray[Any]]:
    """Return a SavedModel's variables in the order of its layers; no graph is loaded."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        keys = list(reader.get_variable_to_shape_map())
        numbered = {int(m[1]): key for key in keys if (m := _VARIABLE.fullmatch(key))}
        arrays = [reader.get_tensor(numbered[number]) for number in sorted(numbered)]
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise damaged(path, last_line(str(error))) from error
    # The states of random generators (of Dropout) stand among them.
    return [array for array in arrays if array.dtype != np.uint32]


def _filled(net: Any, arrays: list[NDArray[Any]]) -> bool:
    """Give a net the run of arrays that has its weights' shapes; False if there is none."""
    wanted = [tuple(weight.shape) for weight in net.weights]
    shapes = [array.shape for array in arrays]
    # What stands in front is another model's preprocessing, what follows is its head.
    for start in range(len(shapes) - len(wanted) + 1):
        if shapes[start : start + len(wanted)] == wanted:
            net.set_weights(arrays[start : start + len(wanted)])
            return True
    return False


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


def _another(plan: TransferPlan, path: Path, reason: str) -> FieldloopError:
    width = f" (alpha {plan.alpha:g})" if plan.family.has_width else ""
    until = f" up to {plan.cut}" if plan.cut else ""
    return DataError(
        f"these are not the weights of {plan.member}{width}{until}: {reason}",
        where=str(path),
        advice="Name the member, alpha and cut that the file was made with.",
    )
