"""Data set layouts: from a folder to manifest rows."""
