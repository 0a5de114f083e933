"""What makes a verb: a function of one question becomes one that is called in two forms.

    @verb
    def trace(call: Call, *, method: Method = "auto", ...) -> TraceEstimate:

is called as `trace(loss_fn, params, key, *, data, where, method, ...)` or as
`trace(operator, *, key, method, ...)`. The arguments that say what is multiplied stand here, those
of the question in the verb, each once: checkers of types see both forms with all of them, and
`inspect.signature`, `help` and completion see the first.
"""

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Concatenate, Never, ParamSpec, Protocol, TypeVar, overload

from jaxtyping import Array, PRNGKeyArray, PyTree

from hessspec._base.arguments import check_key
from hessspec._base.meshes import off_explicit_axes
from hessspec._base.selection import Where
from hessspec._base.signatures import misspelt
from hessspec._operators.algebra import AbstractOperator
from hessspec._operators.calls import require_values, resolve_operator

Options = ParamSpec("Options")
Result = TypeVar("Result", covariant=True)
Blocks = TypeVar("Blocks", covariant=True)
By = Callable[[str, Any], Hashable]  # from path and leaf to the name of a block


@dataclass(frozen=True)
class Call:
    """What a verb was called with, beside its options; its fields are arguments of every verb.

    Attributes:
        loss_fn: the loss, or an operator.
        params, data, where: of the loss alone.
        key: for the probes.
        verb: the name of the verb.
    """

    loss_fn: Callable[..., Array] | AbstractOperator
    params: PyTree = None
    key: PRNGKeyArray | None = None
    data: PyTree = field(default=None, kw_only=True)
    where: Where | None = field(default=None, kw_only=True)
    verb: str = field(kw_only=True)

    def resolve(
        self, memory_budget: int | None = None, *, validate: bool = True
    ) -> tuple[AbstractOperator, PRNGKeyArray]:
        """The operator and the key that are meant.

        Raises:
            TypeError, ValueError: as `resolve_operator`, and if `key` is missing or not a key.
        """
        require_values(self.verb, self.key)  # before a loss is run, whose numbers it would hide
        operator = resolve_operator(
            self.verb, self.loss_fn, self.params, self.data, self.where, memory_budget, validate
        )
        return operator, check_key(self.key)


class Verb(Protocol[Options, Result]):
    """A question to an operator, called in two forms.

    Nothing can be given for `_`: what follows it goes by name. (Types have no other way to say so
    before options; nor that `key` beside an operator does, which the call itself then says.)
    """

    __name__: str

    @overload
    def __call__(
        self,
        loss_fn: Callable[..., Array],
        params: PyTree,
        key: PRNGKeyArray,
        _: Never = ...,
        data: PyTree = None,
        where: Where | None = None,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        operator: AbstractOperator,
        /,
        key: PRNGKeyArray,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Result: ...


class VerbByBlock(Protocol[Options, Result, Blocks]):
    """A verb with an option `by`, which names the block of each leaf: it then returns `Blocks`."""

    __name__: str

    @overload
    def __call__(
        self,
        loss_fn: Callable[..., Array],
        params: PyTree,
        key: PRNGKeyArray,
        _: Never = ...,
        data: PyTree = None,
        where: Where | None = None,
        by: None = None,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        operator: AbstractOperator,
        /,
        key: PRNGKeyArray,
        _: Never = ...,
        by: None = None,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        loss_fn: Callable[..., Array],
        params: PyTree,
        key: PRNGKeyArray,
        _: Never = ...,
        data: PyTree = None,
        where: Where | None = None,
        by: By = ...,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Blocks: ...

    @overload
    def __call__(
        self,
        operator: AbstractOperator,
        /,
        key: PRNGKeyArray,
        _: Never = ...,
        by: By = ...,
        *args: Options.args,
        **kwargs: Options.kwargs,
    ) -> Blocks: ...


def verb(question: Callable[Concatenate[Call, Options], Result]) -> Verb[Options, Result]:
    """`question(call, **options)` as a function that is called with a loss or with an operator."""
    return _as_verb(question)


def verb_by_block(
    blocks: type[Blocks],
) -> Callable[
    [Callable[Concatenate[Call, By | None, Options], Result]], VerbByBlock[Options, Result, Blocks]
]:
    """`question(call, by, **options)` as such a function; with `by` it returns `blocks`.

    `by` goes by name as all options do: it comes second for the types alone, which can take no
    other away from the rest.
    """
    return _as_verb


def _as_verb(question: Callable[..., Any]) -> Any:
    ask = question
    name = question.__name__
    own = inspect.signature(question, eval_str=True)
    what = [p for p in inspect.signature(Call).parameters.values() if p.name != "verb"]
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in list(own.parameters.values())[1:]]
    signature = own.replace(parameters=[*what, *options])

    @functools.wraps(question)
    def asked(*arguments: Any, **named: Any) -> Any:
        try:
            given = signature.bind(*arguments, **named).arguments
        except TypeError as error:
            bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            raise TypeError(
                f"`{name}` cannot be called so ({misspelt(error, signature, named)}); call "
                f"`hessspec.{name}(loss_fn, params, key, data=batch)` or "
                f"`hessspec.{name}(operator, key=key)`, with options by name: "
                f"{name}{inspect.Signature(bare)}."
            ) from None
        call = {p.name: given.pop(p.name) for p in what if p.name in given}
        return off_explicit_axes(ask)(Call(**call, verb=name), **given)

    asked.__signature__ = signature  # type: ignore[attr-defined]
    asked.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    asked.__annotations__["return"] = signature.return_annotation
    return asked
