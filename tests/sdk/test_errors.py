"""Every error says what, where and what to do, and survives a process boundary."""

import pickle

import pytest

from fieldloop import errors
from fieldloop.errors import FieldloopError, InputError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FieldloopError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_a_worker_process_whole(kind):
    error = kind("it broke", where="a.csv", advice="Mend it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (
        again.as_dict()
        == error.as_dict()
        == {
            "error": kind.__name__,
            "what": "it broke",
            "where": "a.csv",
            "advice": "Mend it.",
        }
    )
    assert str(again) == "it broke (a.csv). Mend it."
    assert again.exit_code == (2 if issubclass(kind, InputError) else 1)


def test_the_sentence_stays_whole_without_place_or_advice():
    assert str(FieldloopError("it broke")) == "it broke."
    assert str(FieldloopError("it broke", advice="Mend it.")) == "it broke. Mend it."


@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_in_the_docstring_names_every_error(kind):
    assert f"{kind.__name__} " in errors.__doc__
