"""The stages as Ray jobs: the only modules that import ray."""
