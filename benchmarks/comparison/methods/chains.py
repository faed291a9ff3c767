"""Which draws of a Markov chain are kept; the same for everyone's."""

__all__ = ["NUM_WARMUP", "later_draws"]

from collections.abc import Sequence
from typing import Any

NUM_WARMUP = 200  # draws of a chain in which it adapts


def later_draws(chain: Sequence[Any], num: int) -> Sequence[Any] | None:
    """The later half of a chain, thinned to at most so many; of longer chains none of warming up; None if too short."""
    kept = chain[max(len(chain) // 2, min(NUM_WARMUP, len(chain) - 2)) :]
    return kept[:: -(-len(kept) // num)] if len(kept) > 1 else None
