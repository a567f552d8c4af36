"""A trained model on a whole split: its scores, their files, and submissions."""
