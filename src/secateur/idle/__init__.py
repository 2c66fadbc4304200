"""Which indices of a model do nothing for what it returns."""

from secateur.idle.classes import Idle, find_idle

__all__ = ["Idle", "find_idle"]
