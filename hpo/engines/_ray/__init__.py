"""What engine ray is made of: the cluster, what drives a study on it, what a worker does."""
