"""Tests of the drawn data set and the run on it."""
