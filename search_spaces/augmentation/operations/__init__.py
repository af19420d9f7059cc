"""One file, one operation: the file name is its name, and its knob is `augment.` and that name."""
