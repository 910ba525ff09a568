"""The same tiny models as in tests/train."""

from tests.train.conftest import tiny

__all__ = ["tiny"]
