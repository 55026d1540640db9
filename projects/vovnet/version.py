"""Version of the project, and the oldest torch that it works with."""
__version__ = '0.1.0'
OLDEST_TORCH = '2.6'
