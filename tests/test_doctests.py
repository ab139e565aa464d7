"""The examples in the docstrings of all three packages are true."""

import doctest
import importlib
import pkgutil

import pytest

import fieldloop
import fieldloop_cloud
import fieldloop_device

MODULES = sorted(
    module.name
    for package in (fieldloop, fieldloop_cloud, fieldloop_device)
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{package.__name__}.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("package", ["fieldloop", "fieldloop_cloud", "fieldloop_device"])
def test_there_are_examples(package):
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        test
        for name in MODULES
        if name.startswith(f"{package}.")
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert examples
