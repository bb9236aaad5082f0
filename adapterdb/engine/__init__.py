"""Question to answer: search, compose, runtime, decode."""
