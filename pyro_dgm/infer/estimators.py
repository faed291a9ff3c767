"""The names of the gradient estimators, and which of them each latent gets."""

__all__ = [
    "BIASED",
    "CONTROL",
    "DISCRETE",
    "ESTIMATORS",
    "PATH",
    "SCORE",
    "check_estimator",
    "check_mixture",
    "choose",
    "own_estimator",
]

from collections.abc import Mapping

from pyro_dgm.infer.programs import Site, kind_of, unwrapped
from pyro_dgm.infer.relaxations import Relaxation, is_relaxable

PATH = ("reparam", "stl", "dreg")
SCORE = ("score", "loo", "nvil")
CONTROL = ("rebar", "relax", "disarm")
BIASED = ("straight_through", "gumbel")
DISCRETE = (*CONTROL, *BIASED, "enumerate")
ESTIMATORS = ("auto", *PATH, *SCORE, *CONTROL, *BIASED, "enumerate")


def check_estimator(name: str, place: str) -> str:
    """Returns the name of an estimator if it is known."""
    if name not in ESTIMATORS:
        raise ValueError(f"the gradient of {place} must be one of {ESTIMATORS}; got {name!r}. 'auto' chooses for you.")
    return name


def choose(name: str, site: Site, default: str, num_particles: int, relaxation: Relaxation | None) -> str:
    """The estimator of one guide site: its own, by ``infer={"pyro_dgm": {"gradient": ...}}``, or the default.

    Raises:
        ValueError: the name is unknown, the site says something else as well, or the estimator does not go with the
            site or the number of particles.
    """
    own = own_estimator(name, site)
    chosen, has_path = default if own is None else own, site["fn"].has_rsample
    if own is None and has_path and default in DISCRETE:
        chosen = "reparam"
    if chosen == "auto":
        chosen = "reparam" if has_path else "loo" if num_particles > 1 else "nvil"
    check_estimator(chosen, f"latent {name!r}")
    if chosen in PATH and not has_path:
        raise ValueError(
            f"gradient={chosen!r} needs reparameterised samples; got latent {name!r}, a {kind_of(site)}, which has "
            "none. Use gradient='auto', or 'loo' with several particles and 'nvil' with one."
        )
    if chosen == "loo" and num_particles < 2:
        raise ValueError(
            f"num_particles must be at least 2 for gradient='loo', whose baseline leaves one out; got {num_particles} "
            f"for latent {name!r}. Use gradient='nvil' for a single particle."
        )
    if chosen in CONTROL + BIASED:
        _check_relaxable(name, site, chosen)
    if chosen in (*BIASED, "rebar", "relax") and (relaxation is None or (chosen == "relax" and relaxation.net is None)):
        cure = "Relaxation(net=...)" if chosen == "relax" else "Relaxation()"
        raise ValueError(
            f"gradient={chosen!r} needs a relaxation{' with a network' if chosen == 'relax' else ''}; got none for "
            f"latent {name!r}. Pass relaxation={cure} to the objective."
        )
    return chosen


def own_estimator(name: str, site: Site) -> str | None:
    """The estimator that a guide site names, if it names one.

    Raises:
        ValueError: what it says is no mapping, or has another key.
    """
    own = site["infer"].get("pyro_dgm", {})
    if not isinstance(own, Mapping) or not own.keys() <= {"gradient"}:
        raise ValueError(
            f"infer={{'pyro_dgm': ...}} of latent {name!r} must be a dict whose only key is 'gradient'; got {own!r}. "
            "Write for instance infer={'pyro_dgm': {'gradient': 'score'}}."
        )
    return own.get("gradient")


def check_mixture(chosen: Mapping[str, str], default: str) -> None:
    """Raises a ``ValueError`` where the estimators of several latents do not go together, or none is the default."""
    kinds = set(chosen.values())
    if default in DISCRETE and kinds == {"reparam"}:
        raise ValueError(
            f"gradient={default!r} is for discrete latents; got only continuous ones, {list(chosen)}. Use "
            "gradient='reparam', 'stl' or 'dreg'."
        )
    if "dreg" in kinds and kinds != {"dreg"}:
        raise ValueError(
            "gradient='dreg' must be every latent's, since it moves the score of all of them onto the path; got "
            f"{dict(chosen)}. Use it for all, or 'stl' or 'reparam' for these."
        )
    for lonely in ("rebar", "relax", "enumerate"):
        if lonely in kinds and not kinds <= {lonely, "reparam"}:
            raise ValueError(
                f"gradient={lonely!r} must be every discrete latent's, beside 'reparam' for the continuous ones; got "
                f"{dict(chosen)}. Use it for all of them, or 'loo' or 'nvil'."
            )


def _check_relaxable(name: str, site: Site, chosen: str) -> None:
    kinds = "Bernoulli" if chosen == "disarm" else "Bernoulli or OneHotCategorical"
    if not is_relaxable(site["fn"]) or (chosen == "disarm" and type(unwrapped(site["fn"])).__name__ != "Bernoulli"):
        cure = "'reparam'" if site["fn"].has_rsample else "'loo' or 'nvil'"
        raise ValueError(
            f"gradient={chosen!r} works on latents that are {kinds}; got latent {name!r}, a {kind_of(site)}. Use "
            f"gradient={cure} for it{', or a OneHotCategorical' if kind_of(site) == 'Categorical' else ''}."
        )
