"""Fixtures for all tests; they live in `tests.support`."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.brokers"]

# No timed assertions: a busy machine is not a failure.
settings.register_profile("fieldloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fieldloop")


def pytest_collection_modifyitems(items):
    """Run the fast tests first: what is broken shows soon."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
