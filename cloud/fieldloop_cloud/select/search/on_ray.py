"""Workers of a study on a Ray cluster: Ray Tune places them, and starts those again that it loses.

The study's own sampler draws the settings, so that workers on Ray, on other machines and here can
work on it together.
"""

import importlib.util
from pathlib import Path
from typing import Any

from fieldloop.errors import EnvironmentFaultError
from fieldloop_cloud.compile.worker import last_line
from fieldloop_cloud.select.search.spec import join_study
from fieldloop_cloud.select.search.storage import is_url, without_password
from fieldloop_cloud.select.search.worker import run_worker

_RESTARTS = 3


def run_on_ray(
    place: str,
    *,
    workers: int,
    name: str | None = None,
    files: Path | None = None,
    address: str = "auto",
) -> int:
    """Run workers on a Ray cluster until the study is done.

    Args:
        place: URL of the study's database, or its directory on a disk that every node sees.
        workers: How many; each takes one core.
        name: The study's name; may be left out where there is only one.
        files: Where its files are on the nodes; None where they are called as at its start.
        address: Of the cluster; `auto` finds the one that this machine belongs to.

    Returns:
        How many trials they ran.

    Raises:
        ConfigError: There is no such study.
        EnvironmentFaultError: Ray Tune is not installed, there is no cluster, or every worker
            failed.
    """
    if importlib.util.find_spec("ray") is None:
        raise EnvironmentFaultError(
            "Ray is not installed",
            where=without_password(place),
            advice="Install it on every node: pip install 'ray[tune]'; or start `fieldloop worker` "
            "without --ray.",
        )
    if not is_url(place):
        place = str(Path(place).resolve())  # a worker of Ray has a working directory of its own
    join_study(place, name=name)  # what is wrong with it is better said here than by every worker
    import ray  # noqa: PLC0415 - only where it is asked for
    from ray import tune  # noqa: PLC0415

    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise EnvironmentFaultError(
            f"there is no Ray cluster: {str(error).splitlines()[0]}",
            where=f"address {address}",
            advice="Start one by `ray start --head`, or start `fieldloop worker` without --ray.",
        ) from error

    def one_worker(config: dict[str, Any]) -> dict[str, int]:
        worked = run_worker(place, name=name, files=files, salt=1 + config["number"])
        return {"trials": worked.trial_count}

    try:
        tuner = tune.Tuner(
            tune.with_resources(one_worker, {"cpu": 1}),
            param_space={"number": tune.grid_search(list(range(workers)))},
            run_config=tune.RunConfig(
                verbose=0, failure_config=tune.FailureConfig(max_failures=_RESTARTS)
            ),
        )
        results = tuner.fit()
    finally:
        ray.shutdown()
    if results.num_errors == workers:
        raise EnvironmentFaultError(
            f"every worker on Ray failed: {last_line(str(results.errors[0]))}",
            where=without_password(place),
            advice="Give --files the study's directory as the nodes see it.",
        )
    return sum(int(one.metrics["trials"]) for one in results if one.error is None)
