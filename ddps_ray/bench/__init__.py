"""Measurements that a user can repeat: `ddps bench <name>`."""
