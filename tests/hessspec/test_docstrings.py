"""What every public name says of itself: result, arguments, cost, errors and source."""

import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import hessspec

pytestmark = pytest.mark.any_dtype

PUBLIC = {name: getattr(hessspec, name) for name in hessspec.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if not inspect.isclass(value)]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
# Modules whose fields are their programs and arrays, no part of what users read.
OPERATORS = [name for name in CLASSES if name.endswith("Operator")]
BIBLIOGRAPHY = Path(__file__).parents[2] / "docs" / "references.bib"


def doc_of(value) -> str:
    return inspect.getdoc(value) or ""


def members(cls):
    """The public methods and properties that a class defines itself, as (name, function)."""
    for name, value in vars(cls).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_comes_back_what_it_costs_what_fails_and_whence_it_is(name):
    function, doc = PUBLIC[name], doc_of(PUBLIC[name])
    first = doc.split("\n\n")[0]
    assert first.endswith("."), "the first lines are a sentence about the result"
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert re.search(rf"\b{parameter.name}\b", doc), f"`{parameter.name}` is not explained"
    assert re.search(r"^Args(, Returns, Raises)?:", doc, re.M)
    assert re.search(r"^(Args, Returns, )?Raises:", doc, re.M)
    assert re.search(r"\b[Cc]osts?\b", doc), "the cost in products is missing"
    assert re.search(r"^Source: ", doc, re.M), "a paper that was read, or that it is derived here"


@pytest.mark.parametrize("name", CLASSES)
def test_a_record_or_operator_explains_its_fields_and_methods(name):
    cls = PUBLIC[name]
    doc = cls.__doc__ or ""
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":"))
    if name not in OPERATORS:
        for field in inspect.get_annotations(cls) if is_dataclass(cls) else ():
            assert re.search(rf"\b{field}\b", cls.__doc__), f"`{field}` is not explained"
    for member, function in members(cls):
        text = doc_of(getattr(cls, member))
        assert text, f"{name}.{member} says nothing"
        source = inspect.getsource(function)
        if re.search(r"^\s+raise \w", source, re.M):
            assert "Raises:" in text or "Raise " in text, f"{name}.{member} raises"


def test_works_that_are_cited_are_in_the_bibliography():
    known = set(re.findall(r"@\w+\{(\w+),", BIBLIOGRAPHY.read_text()))
    for name, value in PUBLIC.items():
        for source in re.findall(r"Source: (.*?)(?:\n\n|\Z)", doc_of(value), re.S):
            for key in re.findall(r"\[([a-z]+\d{4}\w*)\]", source):
                assert key in known, f"{name} cites {key}"
