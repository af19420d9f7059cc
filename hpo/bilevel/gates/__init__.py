"""How the layers of a model answer to the knobs: gates on their outputs, put there by hooks."""
