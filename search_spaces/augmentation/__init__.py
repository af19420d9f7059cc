"""Augmentation: operations that change examples, and policies that choose among them."""
