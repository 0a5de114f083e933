"""How the embedded data sets were computed, so that anyone can compute them again.

Run `python -m hessspec_mtl.datasets.generate --help`; needs the extra `generate`. Nothing here is
imported by the loaders, which read the shipped files with the standard library and numpy.
"""
