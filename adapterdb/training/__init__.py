"""Sequences to delta rows; knows no database."""
