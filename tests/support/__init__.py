"""What several test files need; import it as `from tests.support.x import y`."""
