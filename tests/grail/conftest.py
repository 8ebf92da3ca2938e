"""The tiny model for every test of the library."""

from tests.fixtures.tiny_model import tiny_adapter_directory, tiny_base_directory, tiny_model

__all__ = ["tiny_adapter_directory", "tiny_base_directory", "tiny_model"]
