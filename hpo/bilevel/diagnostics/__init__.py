"""What is seen of a self-tuning run, and what in it is worth a warning."""
