"""Tuning inside a run: response layers, knobs as free numbers, and the tuners built on them."""
