"""Tests of Stage II's choices."""
