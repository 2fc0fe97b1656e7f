"""Tests of the stages, on a real Ray."""
