"""Ways to a hypergradient, one a file."""
