"""Asking TensorFlow Serving: its messages, a client, and the files that start a server."""
