"""How much each token of a passage counts when a delta is fitted to it."""
