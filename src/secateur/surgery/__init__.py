"""Carrying a plan out, or putting everything back."""

from secateur.surgery.apply import apply_plan, check_fits
from secateur.surgery.transaction import transaction

__all__ = ["apply_plan", "check_fits", "transaction"]
