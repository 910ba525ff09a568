"""The same tiny models as in tests/train."""

from tests.train.conftest import reward_folder, tiny

__all__ = ["reward_folder", "tiny"]
