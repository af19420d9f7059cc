"""Readers of the data sets behind the built-in objectives."""
