"""Run a model over data without changing it, and see what its weights meet."""

from secateur.observing.batches import Loss, batch_loss, default_loss, read_batch
from secateur.observing.following import Follower
from secateur.observing.reading import Progress, Reading, Receive, finite_loss
from secateur.observing.spool import Spool, repeatable
from secateur.observing.standins import all_seeded, forward, seeded, standing_in
from secateur.observing.watching import Product, Watcher

__all__ = [
    "Follower",
    "Loss",
    "Product",
    "Progress",
    "Reading",
    "Receive",
    "Spool",
    "Watcher",
    "all_seeded",
    "batch_loss",
    "default_loss",
    "finite_loss",
    "forward",
    "read_batch",
    "repeatable",
    "seeded",
    "standing_in",
]
