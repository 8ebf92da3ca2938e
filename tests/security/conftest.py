"""The attacks run against the service of the application's own tests."""

from tests.app.conftest import caller, floor, shared

__all__ = ["caller", "floor", "shared"]
