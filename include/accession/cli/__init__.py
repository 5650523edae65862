"""The commands that `make` calls."""
