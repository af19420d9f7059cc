"""Self-Tuning Networks: the knobs in motion while a run trains."""
