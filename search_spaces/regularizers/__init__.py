"""One file, one regularizer: the file name is the name used in a study."""
