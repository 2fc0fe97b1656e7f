"""Tests of teachers, students, and their training."""
