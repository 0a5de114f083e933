"""What is imported late is not there before it is needed, and is the real thing then."""

import subprocess
import sys

import numpy as np
import pytest

from hessspec._base.later import linalg, special

pytestmark = pytest.mark.any_dtype

HEAVY = ("scipy.stats", "scipy.special", "scipy.linalg", "matplotlib", "tqdm", "IPython", "pandas")


def test_importing_the_package_imports_nothing_that_most_never_call():
    found = f"[name for name in {HEAVY!r} if name in sys.modules]"
    code = f"import sys, hessspec; found = {found}; assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_are_those_of_scipy():
    assert special.ndtri(0.975) == pytest.approx(1.959964)
    assert np.shape(linalg.hessenberg(np.eye(3))) == (3, 3)
    with pytest.raises(AttributeError):
        special.no_such_function(1)
    assert not hasattr(special, "__wrapped__")
