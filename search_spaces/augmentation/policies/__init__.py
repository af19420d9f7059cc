"""One file, one policy: the file name is the name used in a study."""
