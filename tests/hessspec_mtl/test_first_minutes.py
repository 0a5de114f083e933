"""Asking the command for its options takes two seconds, not the libraries of a whole study."""

import subprocess
import sys

HEAVY = ("pandas", "orbax", "scipy.stats", "scipy.sparse", "matplotlib", "rdkit", "pymatgen")


def test_the_options_need_neither_tables_nor_chemistry_nor_plots():
    found = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"import sys, hessspec_mtl.reproduce; found = {found}; assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
