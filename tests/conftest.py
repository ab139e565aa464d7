"""Fixtures for all tests; they live in `tests.support`."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.brokers"]

# No timed assertions: a busy machine is not a failure.
settings.register_profile("fieldloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fieldloop")
