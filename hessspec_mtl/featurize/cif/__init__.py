"""CIF files: the crystal that one holds, or the reason why not; nothing is guessed in silence.

pymatgen splits the file into its items and supplies the symmetry operations of named space groups.
What atoms there are is decided here, since its own reading drops, renames or multiplies atoms where
labels or digits are doubtful, and only warns of it. A reading that is doubtful but possible is
taken if the file's own formula confirms it, and is refused otherwise.

- `items`: what the file says, item by item
- `formula`: elements by their symbols, and the formula
- `symmetry`: the operations, and whether they are those of the cell
- `atoms`: sites, and their images under the operations
- `reading`: `read_cif`
"""

from hessspec_mtl.featurize.cif.reading import CifReading, read_cif

__all__ = ["CifReading", "read_cif"]
