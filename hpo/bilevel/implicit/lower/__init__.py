"""Solvers of the inner problem, one a file."""
