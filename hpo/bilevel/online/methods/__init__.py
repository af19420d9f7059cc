"""Ways to a hypergradient while training goes on, one a file."""
