"""Smaller forms of what tests of the whole command would wait for; each has tests of its own."""

import functools

from hessspec_mtl.curvature.appendix_e import appendix_e

# Appendix E is the same matrix whatever the data; it took a third of the time of these tests.
SMALLER_APPENDIX = functools.partial(
    appendix_e, n=30, num_probes=2, num_steps=10, num_matvecs=8, num_trials=2
)
