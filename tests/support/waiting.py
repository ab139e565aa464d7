"""Waiting for something that another thread or process does."""

import time
from collections.abc import Callable

import pytest


def wait_until(condition: Callable[[], object], *, what: str = "", timeout_s: float = 20.0) -> None:
    """Return as soon as the condition holds; fail the test if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what or condition}")
        time.sleep(0.01)
