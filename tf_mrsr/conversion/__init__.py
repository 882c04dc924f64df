"""Weights of the original programs, brought into our generators: one module per program."""
