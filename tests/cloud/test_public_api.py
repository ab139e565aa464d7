"""The names that users import stay what they are, whatever has been imported before."""

import subprocess
import sys

import pytest

import fieldloop_cloud as fl


@pytest.mark.parametrize("name", [name for name in fl.__all__ if name != "__version__"])
def test_a_public_name_is_callable_even_after_its_sub_package_was_imported(name):
    from fieldloop_cloud.release.builder import bundle  # noqa: PLC0415 - imports most packages

    assert callable(bundle)
    assert callable(getattr(fl, name))


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, fieldloop_cloud; print([m for m in ('numpy', 'sklearn', 'tensorflow', "
    code += "'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        fl.tain  # noqa: B018 - the access is the test
