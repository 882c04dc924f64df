"""Amounts of memory that commands and library share, in bytes."""

UNLIMITED = 2**62
DEFAULT_MEMORY = 4 * 2**30
DEFAULT_CACHE = 4 * 2**30
