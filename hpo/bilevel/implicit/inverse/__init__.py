"""The inverse Hessian times a vector, one way a file."""
