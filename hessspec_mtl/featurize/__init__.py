"""From structures to graphs: bonds of molecules, Voronoi faces of crystals, one-hot encodings.

- `raw_graph`: the record `RawGraph`, what the chemistry packages found
- `molecules`: SMILES to bonds, by rdkit
- `cif`: CIF files to unit cells, or the reason why not
- `crystals`: unit cells to Voronoi faces, by pymatgen, cached on disk
- `one_hot`: `GraphEncoder`, the categories and deciles that enter the network
"""
