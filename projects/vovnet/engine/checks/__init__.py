"""Checks of the data that a config names, before anything is built."""
