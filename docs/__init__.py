"""The pages of the site, and the command that reads the house from its imports."""
