"""The backbone that a run starts from: named once, hashed, and the same for every worker.

    backbone = Backbone.load("backbones/letters")  # what `fieldloop pretrain` wrote
    run = train(data, weights=backbone)

A search keeps a copy beside its rows, so that a change on disk meanwhile changes nothing.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Self

import msgspec

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.train.transfer.plan import (
    BACKBONE_FACTS,
    BACKBONE_FILE,
    IMAGENET,
    no_weights,
    read_facts,
)

SAVED_MODEL = "saved_model.pb"
"""What makes a directory a SavedModel."""

_HDF5 = b"\x89HDF\r\n\x1a\n"


class Backbone(msgspec.Struct, frozen=True, kw_only=True):
    """A backbone, or ImageNet's for every net that has them.

    Attributes:
        name: `imagenet`, or what its file or directory is called.
        weights: Where it is on this machine: what `TransferPlan.weights` takes. In a run's record
            only its name.
        member: The net, by its name in `keras.applications`; None where a candidate may choose.
        alpha: Width of a MobileNet.
        cut: Where it ends itself; empty for a whole net.
        source: Name of the data set that it was trained on; empty where that is not known.
        files: SHA-256 of its files, by their path from the directory that it lies in. Empty for
            ImageNet's, which Keras checks.
    """

    name: str
    weights: str
    member: str | None = None
    alpha: float = 1.0
    cut: str = ""
    source: str = ""
    files: dict[str, str] = {}

    @classmethod
    def load(
        cls,
        weights: Path | str,
        *,
        member: str | None = None,
        alpha: float | None = None,
        cut: str = "",
    ) -> Self:
        """Look at a backbone without starting TensorFlow.

        Args:
            weights: As in `TransferPlan`: a directory that `fieldloop pretrain` wrote, a file, a
                SavedModel's directory, or `imagenet`.
            member: The net, where the weights do not say it; with `imagenet` None lets the search
                choose.
            alpha: Width of a MobileNet; None for 1.
            cut: The stage or layer that a file ends at; empty for a whole net.

        Raises:
            ConfigError: There is nothing, nothing that fieldloop reads, or nothing that says
                which net it is.
            DataError: It is damaged.

        Example:
            >>> Backbone.load("imagenet", member="MobileNetV2", alpha=0.35).parameters
            {'weights': 'imagenet'}
        """
        width = 1.0 if alpha is None else alpha
        if str(weights) == IMAGENET:
            return cls(name=IMAGENET, weights=IMAGENET, member=member, alpha=width, cut=cut)
        path = Path(weights).resolve()
        files = {str(file.relative_to(path.parent)): _sha256(file) for file in files_of(path)}
        facts = read_facts(path)
        is_described = member is not None or alpha is not None or bool(cut)
        _check_named(path, member, is_known=facts is not None, is_described=is_described)
        if facts is None:
            return cls(
                name=path.name,
                weights=str(path),
                member=member,
                alpha=width,
                cut=cut,
                files=files,
            )
        return cls(
            name=path.name,
            weights=str(path),
            member=facts.member,
            alpha=facts.alpha,
            cut=facts.cut,
            source=facts.source,
            files=files,
        )

    @property
    def sha256(self) -> str:
        """Of its file, or of the hashes of its files in their order; empty for ImageNet's."""
        hashes = [self.files[name] for name in sorted(self.files)]
        if len(hashes) <= 1:
            return "".join(hashes)
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def parameters(self) -> dict[str, str]:
        """What a model's lineage says of it, as text."""
        told = {
            "weights": self.name,
            "weights_sha256": self.sha256,
            "pretrained_on": self.source,
        }
        return {name: value for name, value in told.items() if value}

    @property
    def says_itself(self) -> bool:
        """Whether its directory says which net it is, and where it ends."""
        return any(Path(name).name == BACKBONE_FACTS for name in self.files)

    @property
    def named(self) -> Self:
        """It without its place on this machine, for a record."""
        return msgspec.structs.replace(self, weights=self.name)

    @property
    def loading(self) -> str:
        """The Python that names it to `train`."""
        if self.member is None or self.says_itself:
            return repr(self.name)
        cut = f", cut={self.cut!r}" if self.cut else ""
        net = f"member={self.member!r}, alpha={self.alpha:g}{cut}"
        return f"fl.Backbone.load({self.name!r}, {net})"

    def inside(self, directory: Path) -> Self:
        """Return it as it is called where its files lie in another directory."""
        if not self.files:
            return self
        return msgspec.structs.replace(self, weights=str(directory / self.name))


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of a backbone that is no `imagenet`, after a look at their beginning.

    Raises:
        ConfigError: There is nothing, or nothing that fieldloop reads.
        DataError: A file is damaged.
    """
    if not path.exists():
        raise no_weights(path)
    if path.is_dir() and (path / BACKBONE_FILE).exists():
        facts = path / BACKBONE_FACTS
        return (*files_of(path / BACKBONE_FILE), *((facts,) if facts.exists() else ()))
    if path.is_dir() and (path / SAVED_MODEL).exists():
        return (path / SAVED_MODEL, *sorted((path / "variables").glob("variables.*")))
    if path.is_dir():
        raise ConfigError(
            f"this directory holds neither {BACKBONE_FILE} nor a SavedModel",
            where=str(path),
            advice="Give a file, or a directory that `pretrain` or `model.export` wrote.",
        )
    if path.suffix not in (".keras", ".h5"):
        raise ConfigError(
            "this is no file with weights that fieldloop reads",
            where=str(path),
            advice="Give a .keras or .weights.h5 file, a SavedModel's directory, or what "
            "`fieldloop pretrain` wrote.",
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise damaged(path, "it is no whole archive")
    if path.suffix == ".h5" and not _begins_with(path, _HDF5):
        raise damaged(path, "it is no HDF5 file")
    return (path,)


def no_backbone(*names: str) -> ConfigError:
    """Return the error of candidates that lack what they start from."""
    return ConfigError(
        f"{', '.join(names)} starts from a backbone, and none is named",
        where="weights",
        advice="Make one (fieldloop pretrain -o backbones/NAME) and name it (--weights "
        "backbones/NAME), or give a file, or 'imagenet', which is downloaded.",
    )


def damaged(path: Path, reason: str) -> DataError:
    """Return the error of a file with weights that cannot be read."""
    return DataError(
        f"the weights file is damaged: {reason}",
        where=str(path),
        advice="Copy or save it again.",
    )


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise damaged(path, str(error.strerror)) from error


def _check_named(path: Path, member: str | None, *, is_known: bool, is_described: bool) -> None:
    if is_known and is_described:
        raise ConfigError(
            "this backbone says itself which net it is",
            where=str(path),
            advice="Leave member, alpha and cut out.",
        )
    if not is_known and member is None:
        raise ConfigError(
            "these weights do not say which net they are of",
            where=str(path),
            advice="Name it with member (a MobileNet's width with alpha), for example "
            "MobileNetV2; a directory of `fieldloop pretrain` says it itself.",
        )
