"""Settings of every test."""

import os

import hypothesis

# Compilation makes the first example slow; the time of one example says nothing about ours.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("study", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
