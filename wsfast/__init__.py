"""wsfast: do networks trained from different seeds end up with similar weights?"""

from pathlib import Path as _Path

_ROOT = _Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file():  # a checkout: kernels/ and reference/ lie beside this folder
    __path__.append(str(_ROOT))

from .aligning import align  # noqa: E402
from .architectures import network  # noqa: E402
from .bayes import bayesian  # noqa: E402
from .chains import chain_factor, chain_gram, chain_kernel  # noqa: E402
from .classifier import WeightClassifier  # noqa: E402
from .comparing import compare  # noqa: E402
from .connecting import connectivity  # noqa: E402
from .converging import convergence  # noqa: E402
from .crossing import cross  # noqa: E402
from .declaration import Network  # noqa: E402
from .generation import Interrupted, generate  # noqa: E402
from .gridding import grid  # noqa: E402
from .predicting import metanetworks  # noqa: E402
from .recipe import Recipe  # noqa: E402
from .searching import search  # noqa: E402
from .studying import StudyResult, study  # noqa: E402
from .taskset import TaskSet, tasks  # noqa: E402
from .weights import WeightSet  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    "Interrupted",
    "Network",
    "Recipe",
    "StudyResult",
    "TaskSet",
    "WeightClassifier",
    "WeightSet",
    "align",
    "bayesian",
    "chain_factor",
    "chain_gram",
    "chain_kernel",
    "compare",
    "connectivity",
    "convergence",
    "cross",
    "generate",
    "grid",
    "metanetworks",
    "network",
    "search",
    "study",
    "tasks",
]
