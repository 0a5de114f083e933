"""What is published: wheel and sdist are built, installed by themselves, used and type-checked."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import hessspec

ROOT = Path(__file__).parents[1]

# What a user writes, with what checkers should make of it.
SNIPPET = """\
import jax
import jax.numpy as jnp
from typing_extensions import assert_type

import hessspec


def loss_fn(params: dict[str, jax.Array], batch: jax.Array) -> jax.Array:
    return jnp.mean((batch @ params["w"]) ** 2)


params = {"w": jnp.ones(3)}
operator = hessspec.HessianOperator(loss_fn, params, data=jnp.ones((5, 3)))
assert_type(hessspec.density(operator, key=jax.random.key(0)), hessspec.SpectralDensity)
assert_type(hessspec.trace(loss_fn, params, jax.random.key(0)), hessspec.TraceEstimate)
by_block = hessspec.trace(operator, key=jax.random.key(0), by=lambda path, leaf: path, rtol=0.1)
assert_type(by_block, hessspec.BlockTraces)
assert_type(hessspec.forecast(operator).seconds, float)
hessspec.density(operator, num_steps="many")  # an error
"""


def run(*command: object, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.any_dtype
def test_the_version_is_said_once_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.M)
    assert newest is not None
    assert {
        project["version"],
        hessspec.__version__,
        *re.findall(r"^version: (\S+)$", citation, re.M),
        newest[1],
    } == {project["version"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Wheel and sdist of this tree, made by the build backend in an environment of its own."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "backend", with_pip=True)
    backend = folder / "backend" / "bin" / "python"
    run(backend, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "hatchling")
    run(backend, "-m", "hatchling", "build", "-d", folder / "dist", cwd=ROOT)
    found = {path.suffix: path for path in (folder / "dist").iterdir()}
    assert set(found) == {".whl", ".gz"}
    return found


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A Python with the wheel in its site-packages, and the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / minor / "site-packages"
    with zipfile.ZipFile(built[".whl"]) as wheel:
        wheel.extractall(packages)
    # Behind the wheel: an editable installation of the tree there must not come first.
    (packages / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_works_where_the_tree_is_not(installed, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "import hessspec, hessspec_mtl; print(hessspec.__file__, hessspec.__version__)"
    said = run(installed, "-c", code, cwd=tmp_path, env=environment)
    assert said.split()[0].startswith(str(installed.parents[1]))
    assert said.split()[1] == hessspec.__version__
    readme = (ROOT / "README.md").read_text("utf-8")
    first = re.search(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert first is not None
    (tmp_path / "first.py").write_text(first[1])
    run(installed, "first.py", cwd=tmp_path, env={**environment, "MPLBACKEND": "agg"})
    assert (tmp_path / "spectrum.png").stat().st_size > 5000
    data = "from hessspec_mtl.datasets import computed; print(computed.__file__)"
    run(installed, "-c", data, cwd=tmp_path, env=environment)


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_is_made_of_and_the_tests(built):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = [n for n in wheel.namelist() if not re.match(r"[^/]*\.dist-info/", n)]
    with tarfile.open(built[".gz"]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hessspec/py.typed", "hessspec_mtl/py.typed"} <= set(names)
    assert "hessspec_mtl/datasets/embedded/molecules.jsonl.gz" in names
    assert set(names) <= held
    for name in ("tests/test_packages.py", "Makefile", "LICENSE", "CITATION.cff", "README.md"):
        assert name in held


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_a_users_types_are_checked_against_the_installed_package(checker, installed, tmp_path):
    """`py.typed` is seen: types are those declared, and a wrong argument is an error."""
    (tmp_path / "snippet.py").write_text(SNIPPET)
    if checker == "mypy":
        pytest.importorskip("mypy")
        command = [sys.executable, "-m", "mypy", "--python-executable", installed, "snippet.py"]
    else:
        command = [Path(sys.executable).with_name(checker), "--pythonpath", installed]
        command += ["--level", "error", "snippet.py"]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    errors = [
        line for line in done.stdout.splitlines() if re.search(r"snippet\.py:\d+.*error", line)
    ]
    assert errors, done.stdout + done.stderr
    last = len(SNIPPET.splitlines())
    assert all(re.search(rf"snippet\.py:{last}\b", line) for line in errors), errors
