"""Tests of what a run directory says about itself."""
