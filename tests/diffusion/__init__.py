"""Tests of ddps_ray.diffusion."""
