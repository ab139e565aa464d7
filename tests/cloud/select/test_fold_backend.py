"""Folds fitted on the workers of a real Dask cluster."""

import joblib
import pytest
from distributed import Client, LocalCluster

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.search.fold_backend import active_backend
from fieldloop_cloud.train.trainer import train


@pytest.mark.slow
def test_folds_are_fitted_by_the_workers_of_dask():
    with (
        LocalCluster(  # one thread alone is no reason for joblib to use it
            n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        assert active_backend().address == cluster.scheduler_address
        run = train(Dataset.load("sklearn:iris"), strategy="80-20", candidates=["k-nearest"])
        counts = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert run.chosen.candidate == "k-nearest"
    assert sum(counts.values()) > 0
