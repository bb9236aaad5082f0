"""Looking after a store: checked, repaired, collected, forgotten from, copied, tidied, measured.

Everything here works on an open ``Store`` from outside, beside other work on the same home.
"""
