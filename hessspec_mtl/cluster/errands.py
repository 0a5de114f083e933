"""What a report needs beside the units of its studies, done by this machine's workers meanwhile.

Alone at the end, these would keep one core busy and the others idle. An errand that fails is left
out: the report then does it itself, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hessspec_mtl.baselines.forest import forest_file, keep_forest, unavailable
from hessspec_mtl.curvature.appendix_e import appendix_e
from hessspec_mtl.study.pipeline import StudyWork


@dataclass(frozen=True)
class Errand:
    """A piece of work that no unit waits for.

    Attributes:
        words: what it is.
        make: does it, in a worker, which is sent all that this holds.
        keep: takes what came of it, in the process that asked.
    """

    words: str
    make: Callable[[], Any]
    keep: Callable[[Any], None]

    def __str__(self) -> str:
        return self.words


def of_report(studies: Sequence[StudyWork], keep: Callable[[Any], None]) -> list[Errand]:
    """The errands of a report on `studies`; `keep` takes the experiment of appendix E."""
    appendix = Errand("Appendix E: a Hessian whose spectrum is known", appendix_e, keep)
    return [appendix, *(_forest(study) for study in studies if _lacks_forest(study))]


def _lacks_forest(study: StudyWork) -> bool:
    return not unavailable(study.dataset) and not study.forest_path.exists()


def _forest(study: StudyWork) -> Errand:
    dataset = replace(study.dataset, graphs=())  # most of it, and no forest looks at them
    return Errand(
        f"random forests of {dataset.name}",
        partial(forest_file, dataset, study.seeds[0].split),
        lambda made: keep_forest(study.forest_path, *made),
    )
