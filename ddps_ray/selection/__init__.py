"""Stage II: which patches make a distilled set. No Ray here."""
