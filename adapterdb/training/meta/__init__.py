"""Learning theta and alpha of gradient deltas, and the controls that say whether it helped."""
