"""Hypergradients by implicit differentiation of an inner problem, solved as far as needed."""
