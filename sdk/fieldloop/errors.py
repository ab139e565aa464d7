"""The error tree: every error says what happened, where, and what to do.

FieldloopError (exit code 1)
├── InputError (exit code 2: what the user gave is wrong)
│   ├── DataError             a data set, file or value that cannot be used
│   ├── ConfigError           a wrong option, missing setting or unknown name
│   ├── SignatureError        a raw value that does not fit the model's signature
│   └── UnsupportedError      a model, parameter or layer that cannot be compiled
├── BundleError               a bundle that is corrupt, truncated or malformed
│   └── TrustError            bytes that are not signed by a trusted key, or a downgrade
├── CompatibilityError        the wrong device class, a runtime or an op that is too old
├── GateError                 a result that may not go on: accuracy lost, budget exceeded
├── TransportError            MQTT or HTTP
│   ├── NotConnectedError     the other side cannot be reached (try again later)
│   └── RefusedError          the other side said no (trying again does not help)
├── ModelRuntimeError         the interpreter failed while it loaded or ran a model
│   └── ModelCrashError       the process of an isolated model died or hung
└── EnvironmentFaultError     this machine: a full disk, a taken port, a missing package

Commands exit with `exit_code`: 0 is success, 1 an operation that failed, 2 wrong input. A library
error that belongs to the user is wrapped where it is understood, never shown as a traceback.
"""

from typing import ClassVar


class FieldloopError(Exception):
    """Base of every error that fieldloop raises on purpose.

    Args:
        what: What happened, one sentence in the user's words, without a full stop.
        where: The file, row, column, layer, parameter or address it concerns.
        advice: What to do instead; a sentence that starts with a verb.

    Example:
        >>> str(DataError("column 'fault' is missing", where="a.csv", advice="Name one of: a, b."))
        "column 'fault' is missing (a.csv). Name one of: a, b."
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.advice = advice

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.what}{place}. {self.advice}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process with all three parts."""
        return _rebuild, (type(self), self.what, self.where, self.advice)

    def as_dict(self) -> dict[str, str]:
        """Return the error for `--json`: `error`, `what`, `where` and `advice`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "advice": self.advice,
        }


def _rebuild(kind: type[FieldloopError], what: str, where: str, advice: str) -> FieldloopError:
    return kind(what, where=where, advice=advice)


class InputError(FieldloopError):
    """What the user gave is wrong; the same call cannot succeed."""

    exit_code: ClassVar[int] = 2


class DataError(InputError):
    """A data set, a file or a value in it cannot be used."""


class ConfigError(InputError):
    """An option, a setting or a name is wrong."""


class SignatureError(InputError):
    """A raw value does not fit the model's signature."""


class UnsupportedError(InputError):
    """A model cannot be compiled exactly; names the estimator, parameter or layer."""


class BundleError(FieldloopError):
    """A bundle is corrupt, truncated or malformed."""


class TrustError(BundleError):
    """Bytes are not signed by a trusted key, were changed, or are older than allowed."""


class CompatibilityError(FieldloopError):
    """A sound bundle that this device or this runtime cannot run."""


class GateError(FieldloopError):
    """A result that may not go on: accuracy was lost or no model fits the budget."""


class TransportError(FieldloopError):
    """Something went wrong on the way between device and home."""


class NotConnectedError(TransportError):
    """The other side cannot be reached now; trying again later may help."""


class RefusedError(TransportError):
    """The other side refused; trying again with the same credentials does not help."""


class ModelRuntimeError(FieldloopError):
    """The interpreter failed while it loaded or ran a model."""


class ModelCrashError(ModelRuntimeError):
    """The process of an isolated model died or hung; it is started again."""


class EnvironmentFaultError(FieldloopError):
    """This machine lacks something: disk space, a free port, a package, a permission."""
