"""Hypergradients while the parameters are still on their way: in ordinary stochastic training."""
