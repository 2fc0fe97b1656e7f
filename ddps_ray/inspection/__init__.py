"""What a run directory says about itself, without a cluster."""
