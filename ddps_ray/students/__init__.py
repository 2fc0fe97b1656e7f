"""Teachers, students, and the training of one on a distilled set. No Ray here."""
