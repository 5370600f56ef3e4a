"""Answer which fine-tuning strategy to use, with which settings, from rules and from measured trials.

    import advisor
    print(advisor.recommend(advisor.Situation(large=True, compute="low")))

`recommend` asks what ships with the package, or a file that `advisor fit` wrote (`load`); `Advisor` learns from a
frame of trials, in scikit-learn's manners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.evidence import Fitted, load

# The module of the same name stays importable; the package's own name is the function.
from advisor.recommend import Candidate, Recommendation, recommend
from advisor.situation import Situation

if TYPE_CHECKING:
    from advisor.estimator import Advisor

__all__ = ["Advisor", "Candidate", "Fitted", "Recommendation", "Situation", "load", "recommend"]


def __getattr__(name: str) -> Any:
    """Return `Advisor`, which brings scikit-learn and pandas along, where it is asked for."""
    if name == "Advisor":
        from advisor.estimator import Advisor

        return Advisor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
