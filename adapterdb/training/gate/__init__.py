"""MeteoRA: gates learned at every adapted linear, which choose deltas token by token."""
