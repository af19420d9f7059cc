"""The training loop and what it is made of; import the modules of this package by name."""
