"""Every row of every table `cases_*.py`, on every data set, with drawn hyper-parameters."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.compile_cases import check_case, data_names

from fieldloop_cloud.compile.lowering import supported

EXAMPLES = 2
"""Hyper-parameter sets drawn for each estimator and data set."""


def _tables():
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from module.CASES


PAIRS = [
    pytest.param(case, name, id=f"{case.name}-{name}")
    for case in _tables()
    for name in data_names(case)
]


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_compiled_estimators_answer_as_scikit_learn_does(case, name, tflite214):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def every(data):
        check_case(case, data.draw(case.parameters), name, tflite214)

    every()


def test_every_supported_estimator_is_tested():
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    names = {name.rpartition(".")[2] for name in supported() if name.startswith("sklearn.")}
    untested = sorted(name for name in names if not name.startswith("_") and name not in texts)
    assert not untested
