"""Object stores: their APIs on loopback, well and ill behaved."""
