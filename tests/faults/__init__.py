"""Real crashes."""
