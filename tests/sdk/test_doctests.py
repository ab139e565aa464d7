"""The examples in the SDK's docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import fieldloop

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(fieldloop.__path__, prefix="fieldloop.")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        test
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(examples) >= 15
