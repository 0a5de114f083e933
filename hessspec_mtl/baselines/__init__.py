"""How well one does without a graph network: a random forest on the same split.

- `descriptors`: a row of numbers for each molecule or crystal
- `forest`: the forests, their test errors, and the file that these are kept in
"""
