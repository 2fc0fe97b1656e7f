"""Tests of the data set layouts."""
