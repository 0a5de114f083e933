"""What is run on a GPU that is at hand for a quarter of an hour."""
