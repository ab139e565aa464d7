"""Real parts that a test needs and a machine may lack."""

import os
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
"""CI installs every part, so that a part which is missing there is a failure, not an excuse."""


def missing(reason: str) -> NoReturn:
    """Leave a test out and say why; in CI fail."""
    if IN_CI:
        pytest.fail(f"CI must have every part: {reason}")
    pytest.skip(reason)
