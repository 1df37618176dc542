"""Calls of the user's, checked and made ready to run."""
