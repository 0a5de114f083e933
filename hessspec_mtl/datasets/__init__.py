"""Data sets of the paper, of the project itself, and of one's own.

- `base`: the records `MultitaskDataset`, `Task`, `Split`, `EncodedDataset`
- `sources`: which files, from where, under which terms
"""
