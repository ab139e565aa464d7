"""Where the folds of a cross-validation are fitted: under the caller's `joblib.parallel_config`.

Trials run in a process of their own, where the caller's configuration does not reach; so its name
and address travel with the order and are set up again there. Dask and Ray are joblib's own
backends; without a configuration folds are fitted one after the other.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import msgspec

_NAMES: dict[str, Literal["threading", "loky", "dask", "ray"]] = {
    "ThreadingBackend": "threading",
    "LokyBackend": "loky",
    "DaskDistributedBackend": "dask",
    "RayBackend": "ray",
}


class FoldBackend(msgspec.Struct, frozen=True, kw_only=True):
    """A backend of joblib.

    Attributes:
        name: As `joblib.parallel_config` takes it.
        n_jobs: How many at the same time; -1 for all there are.
        address: Of a Dask scheduler; Ray finds its cluster by itself.
    """

    name: Literal["threading", "loky", "dask", "ray"]
    n_jobs: int
    address: str = ""


def active_backend() -> FoldBackend | None:
    """Return the backend that the caller has configured; None if there is none."""
    from joblib.parallel import get_active_backend  # noqa: PLC0415 - only when searching

    backend, n_jobs = get_active_backend()
    name = _NAMES.get(type(backend).__name__)
    if name is None or (name in {"threading", "loky"} and n_jobs in {None, 1}):
        return None
    address = str(backend.client.scheduler.address) if name == "dask" else ""
    return FoldBackend(name=name, n_jobs=-1 if n_jobs is None else int(n_jobs), address=address)


@contextlib.contextmanager
def folds_on(backend: FoldBackend | None) -> Iterator[None]:
    """Fit folds on this backend meanwhile."""
    if backend is None:
        yield
        return
    from joblib import parallel_config  # noqa: PLC0415 - only where it is asked for

    with contextlib.ExitStack() as stack:
        if backend.name == "dask":
            from distributed import Client  # noqa: PLC0415 - the caller has it

            stack.enter_context(Client(backend.address, set_as_default=True))
        elif backend.name == "ray":
            from ray.util.joblib import register_ray  # noqa: PLC0415 - the caller has it

            register_ray()
        stack.enter_context(parallel_config(backend=backend.name, n_jobs=backend.n_jobs))
        yield
