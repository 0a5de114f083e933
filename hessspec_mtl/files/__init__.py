"""Files that are whole or not there, and how long what is in them took."""
