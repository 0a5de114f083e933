"""Examples that draw: each is a script that can be pasted, with its figure and what it printed."""
