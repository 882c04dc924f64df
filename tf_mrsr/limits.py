"""What commands and library allow by default: memory in bytes, time in seconds."""

UNLIMITED = 2**62
DEFAULT_MEMORY = 4 * 2**30
DEFAULT_CACHE = 4 * 2**30
SERVER_TIMEOUT = 600  # for one scan
