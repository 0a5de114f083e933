"""Data sets of the paper, of the project itself, and of one's own.

Loaders, each of which gives a `base.MultitaskDataset`:

- `qm8.load_qm8`: molecules with excitation energies and oscillator strengths
- `materials_project.load_materials_project`: crystals with elastic moduli
- `computed.load_molecules`, `computed.load_crystals`: small sets that come with the package
- `own.load_own_molecules`, `own.load_own_crystals`: a user's CSV and CIF files

What they are made of:

- `base`: the records, splits, standardisation, encoding
- `sources`: which files, from where, under which terms; downloads
- `elastic_records`, `materials_project_api`: files and answers of the Materials Project
- `voronoi`: graphs of crystals, made in parallel and kept on disk
- `csv_table`, `cif_files`: tables as people write them, and the files that they name
- `grouping`: which examples belong together in a split
- `generate`: how the sets that come with the package were computed

Nothing is imported here: chemistry packages take seconds to load.
"""
