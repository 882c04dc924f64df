"""What commands and library allow by default, memory in bytes, time in seconds; and from where on they warn."""

UNLIMITED = 2**62
DEFAULT_MEMORY = 4 * 2**30
DEFAULT_CACHE = 4 * 2**30
SERVER_TIMEOUT = 600  # for one scan
MOST = 10**6  # epochs, steps, patches per volume, seconds of patience; more is a slip

# Computing in bfloat16 at less than this share of float32's speed is no good choice. Processors with instructions for
# it have more than 1, those without less than 0.2.
SLOW_BFLOAT16 = 0.5
