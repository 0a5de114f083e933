"""For the reference: verbs are shown in the two forms in which they are called."""

from copy import copy
from typing import Any

import griffe

VERB = "hessspec._operators.verbs.verb"
FORMS = "hessspec._operators.verbs.Verb"


class Verbs(griffe.Extension):
    """Sources say of a verb what is its own; `@verb` gives it the arguments of every call."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        if pkg.path != VERB.partition(".")[0]:
            return
        forms = loader.modules_collection[FORMS].overloads["__call__"]
        for function in _functions(pkg):
            if any(decorator.callable_path == VERB for decorator in function.decorators):
                with_loss, with_operator = (_called(function, form) for form in forms)
                function.overloads = [with_loss]  # shown before the function itself
                function.parameters = with_operator.parameters


def _called(verb: griffe.Function, form: griffe.Function) -> griffe.Function:
    """A verb as it is called in one of the forms: what it needs by place or name, the rest by name.

    Beside an operator, which has no name, everything goes by name.
    """
    _, first, *others = (copy(p) for p in form.parameters if p.name not in ("_", "args", "kwargs"))
    alone = first.kind is griffe.ParameterKind.positional_only
    for parameter in others:
        if alone or parameter.default is not None:
            parameter.kind = griffe.ParameterKind.keyword_only
    own = list(verb.parameters)[1:]
    shown = griffe.Parameters(first, *others, *own)
    return griffe.Function(verb.name, parameters=shown, returns=verb.returns, parent=verb.parent)


def _functions(module: griffe.Module) -> list[griffe.Function]:
    """Those defined in a module or below, each once: names that were imported are left out."""
    inside = [member for member in module.members.values() if not member.is_alias]
    found = [member for member in inside if isinstance(member, griffe.Function)]
    below = [member for member in inside if isinstance(member, griffe.Module)]
    return found + [function for inner in below for function in _functions(inner)]
