"""Questions about transfer nets that only a process with TensorFlow can answer.

`main` reads `ask.json` (`{"what": name, ...}`) in the job's directory and writes `answer.json`.
"""

import json
import zipfile
from pathlib import Path

import numpy as np

from fieldloop.errors import FieldloopError
from fieldloop_cloud.train.nets.build import build
from fieldloop_cloud.train.nets.optimizers import make_optimizer
from fieldloop_cloud.train.nets.phases import phases
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.transfer.families import FAMILIES, family_of
from fieldloop_cloud.train.transfer.pixels import pixels
from fieldloop_cloud.train.transfer.plan import TransferPlan
from fieldloop_cloud.train.transfer.stages import cut_at, stages
from fieldloop_cloud.train.transfer.weights import untrained, weighted

ASKED = {}


def die_with_parent():
    pass


def asked(function):
    ASKED[function.__name__] = function
    return function


def main(job):
    ask = json.loads((job / "ask.json").read_text())
    answer = ASKED[ask.pop("what")](job, **ask)
    (job / "answer.json").write_text(json.dumps(answer))


def smallest(family, **options):
    alpha = family.alphas[0] if family.has_width else 1.0
    given = {"height": 80, "width": 80, "channels": 3, "classes": 4, "weights": None}
    return TransferPlan(**(given | {"member": family.members[0], "alpha": alpha} | options))


@asked
def preprocessing(job):
    """Deviation of the folded pixels from each family's own preprocess_input."""
    import keras  # noqa: PLC0415 - only this process loads it

    random = np.random.default_rng(0)
    colour = random.random((2, 80, 80, 3), dtype=np.float32)
    found = {}
    for family in FAMILIES:
        own = getattr(keras.applications, family.module).preprocess_input
        made = np.asarray(pixels(smallest(family), colour))
        found[family.module] = float(np.abs(made - own(255 * colour)).max())
        # Grey, black at -1 and white at 3, as another codec may scale.
        grey = colour[..., :1]
        plan = smallest(family, channels=1, black=-1.0, white=3.0)
        made = np.asarray(pixels(plan, 4 * grey - 1))
        expected = own(255 * np.repeat(grey, 3, axis=3))
        found[f"{family.module} grey"] = float(np.abs(made - expected).max())
    return found


@asked
def cuts(job):
    """Stages of each family's smallest member, and whether a cut's weights come first."""
    found = {}
    for family in FAMILIES:
        if family.module in ("inception_resnet_v2", "vgg19"):  # large, and alike to others
            continue
        net = untrained(smallest(family))
        ends = stages(net)
        last = cut_at(net, ends[-2].name)
        shape = [*last.output.shape[1:]]
        found[family.module] = {
            "ends": [[s.name, s.layer, s.height, s.channels] for s in ends],
            "cut": shape == [ends[-2].height, ends[-2].width, ends[-2].channels],
            "prefix": [w.path for w in last.weights]
            == [w.path for w in net.weights][: len(last.weights)],
        }
    return found


@asked
def sources(job):
    """What each kind of weights file gives."""
    import keras  # noqa: PLC0415 - only this process loads it

    plan = smallest(FAMILIES[1], height=32, width=32, cut="stage4")
    net = untrained(plan)
    net.set_weights([np.random.default_rng(0).random(w.shape) for w in net.weights])
    full = [np.asarray(w) for w in net.get_weights()]
    net.save(job / "full.keras")
    net.save_weights(job / "full.weights.h5")
    net.export(str(job / "exported"), format="tf_saved_model", verbose=False)
    inputs = keras.Input((32, 32, 3))
    own = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(cut_at(net, "stage4")(
        keras.layers.Conv2D(3, 1)(inputs)))))  # fmt: skip
    own.save(job / "own-cut.keras")
    cut_at(net, "stage2").save(job / "too-short.keras")
    other = keras.applications.MobileNetV2(
        alpha=0.5, weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    other.save(job / "other.keras")
    other.save_weights(job / "other.weights.h5")
    keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)]).save(
        job / "lambda.keras"
    )

    class Odd(keras.layers.Layer):
        pass

    keras.Sequential([keras.Input((3,)), Odd()]).save(job / "odd.keras")
    for whole, part in (("full.keras", "cut-off.keras"), ("full.weights.h5", "cut-off.weights.h5")):
        data = (job / whole).read_bytes()
        (job / part).write_bytes(data[: len(data) // 2])
    (job / "text.keras").write_text("no archive")
    with zipfile.ZipFile(job / "empty.keras", "w"):
        pass
    (job / "weights.bin").write_bytes(b"what is this")
    (job / "folder").mkdir()
    names = [*(path.name for path in job.iterdir() if path.name != "ask.json"), "imagenet"]
    found = {}
    for name in names:
        source = name if name == "imagenet" else str(job / name)
        given = smallest(FAMILIES[1], height=32, width=32, cut="stage4", weights=source)
        try:
            made = weighted(given).get_weights()
        except FieldloopError as error:
            found[name] = f"{type(error).__name__}: {error}"
        else:
            same = all(np.array_equal(a, b) for a, b in zip(made, full, strict=False))
            found[name] = "the same" if same and made else "others"
    return found


@asked
def training(job, weights):
    """What the phases train, how far a step goes, and what training mode changes."""
    import keras  # noqa: PLC0415 - only this process loads it

    keras.utils.set_random_seed(0)
    fields = {"height": 8, "width": 8, "channels": 1, "alpha": 0.35, "side": 32, "cut": "stage3"}
    plan = TransferPlan(**fields, classes=3, weights=weights, pooling="flatten", fine_tune="stage2")
    settings = NetSettings(optimizer="sgd", momentum=0.0, learning_rate=1.0).resolved(3)
    model = build(plan)
    backbone = model.get_layer("backbone")
    X = np.random.default_rng(0).random((16, 8, 8, 1)).astype(np.float32)
    found = []
    for phase in phases(plan, settings):
        phase.prepare(model)
        before = [np.asarray(v) for v in model.trainable_variables]
        statistics = [np.asarray(v) for v in backbone.non_trainable_variables]
        model(X, training=True)
        kept = zip(statistics, backbone.non_trainable_variables, strict=True)
        optimizer = make_optimizer(settings, phase)
        optimizer.build(model.trainable_variables)
        optimizer.apply([np.ones(v.shape, np.float32) for v in model.trainable_variables])
        steps = {
            v.path: float((old - np.asarray(v)).mean())
            for old, v in zip(before, model.trainable_variables, strict=True)
        }
        found.append(
            {
                "name": phase.name,
                "rate": phase.learning_rate,
                "steps": {path: step / phase.learning_rate for path, step in steps.items()},
                "kept": all(np.array_equal(a, np.asarray(b)) for a, b in kept),
            }
        )
    return found


@asked
def untrained_nets(job, members):
    """Save a net of each member with drawn weights; its batch statistics are of these rows."""
    for member in members:
        family = family_of(member)
        model = build(smallest(family, height=32, width=32, member=member))
        X = np.random.default_rng(0).random((16, 32, 32, 3)).astype(np.float32)
        for layer in model.get_layer("backbone").layers:
            if type(layer).__name__ == "BatchNormalization":
                layer.momentum = 0.0
        model(X, training=True)
        model.save(Path(job) / f"{member}.keras")
    return members
