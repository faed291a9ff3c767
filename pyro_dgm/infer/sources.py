"""Where draws come from: the model run forward, the data completed by the guide, or the data alone."""

__all__ = ["DATA", "P", "Q", "Source"]

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

_PROGRAMS = {"model": "P", "guide": "Q", "data": "DATA"}


@final
@dataclass(frozen=True)
class Source:
    """A joint distribution over latents and data that can be drawn from; begin with ``P``, ``Q`` or ``DATA``.

    Sites that a source does not draw itself are the data's: under ``Q`` and ``DATA`` what the model observes. Names
    may also be those of the programs' arguments, such as a context, which are the same in every source.

    Arguments:
        program: ``"model"``, ``"guide"`` or ``"data"``.
        given_sites: latents that the model takes from the guide; empty for all of them, None for none.
        is_cut: whether these arrive as numbers, so that no gradient reaches the guide.
        is_observed: whether the data stand in the place of what the model has simulated.
        shuffled_sites: sites whose rows are permuted.
        is_factorized: whether every feature of them is permuted by itself.
        redrawn_sites: implicit sites drawn anew from their scorer.

    Example:
        >>> P.given("z").observed()
        P.given('z').observed()
    """

    program: str
    given_sites: tuple[str, ...] | None = None
    is_cut: bool = False
    is_observed: bool = False
    shuffled_sites: tuple[str, ...] = ()
    is_factorized: bool = False
    redrawn_sites: tuple[str, ...] = ()

    def given(self, *sites: str, through_draws: bool = True) -> "Source":
        """The model run forward from latents that the guide has drawn for the data, as in a reconstruction.

        Arguments:
            sites: the latents; all that the guide draws when empty.
            through_draws: let the gradient reach the guide through them.

        Raises:
            TypeError: a site is no name.
            ValueError: the source is not the model.
        """
        self._check("given", ("model",))
        return dataclasses.replace(self, given_sites=_names("given", sites), is_cut=not through_draws)

    def observed(self) -> "Source":
        """The model's latents beside the data, which do not belong together: the data replace the simulated ones.

        Raises:
            ValueError: the source is not the model.
        """
        self._check("observed", ("model",))
        return dataclasses.replace(self, is_observed=True)

    def shuffled(self, *sites: str, each_feature: bool = False) -> "Source":
        """The draws with the rows of some sites permuted at random, which makes them independent of the others.

        Arguments:
            sites: their names, at least one; several keep their rows together.
            each_feature: permute each feature by itself, which draws from the product of the features' marginals.

        Raises:
            TypeError: a site is no name.
            ValueError: there is no site.
        """
        if not sites:
            raise ValueError("shuffled must be told which sites; got none. For instance Q.shuffled('z').")
        names = _names("shuffled", sites)
        return dataclasses.replace(self, shuffled_sites=names, is_factorized=each_feature)

    def redrawn(self, *sites: str) -> "Source":
        """The draws with some implicit sites drawn anew from their scorer: what adaptive contrast compares with.

        Raises:
            TypeError: a site is no name.
            ValueError: there is no site, or the source is the data alone.
        """
        self._check("redrawn", ("model", "guide"))
        if not sites:
            raise ValueError("redrawn must be told which sites; got none. For instance Q.redrawn('z').")
        return dataclasses.replace(self, redrawn_sites=_names("redrawn", sites))

    def __repr__(self) -> str:
        text = _PROGRAMS[self.program]
        if self.given_sites is not None:
            arguments = [repr(name) for name in self.given_sites] + ["through_draws=False"] * self.is_cut
            text += f".given({', '.join(arguments)})"
        text += ".observed()" * self.is_observed
        if self.redrawn_sites:
            text += f".redrawn({', '.join(map(repr, self.redrawn_sites))})"
        if self.shuffled_sites:
            arguments = [repr(name) for name in self.shuffled_sites] + ["each_feature=True"] * self.is_factorized
            text += f".shuffled({', '.join(arguments)})"
        return text

    def _check(self, verb: str, programs: Iterable[str]) -> None:
        if self.program not in programs:
            names = " or ".join(_PROGRAMS[program] for program in programs)
            raise ValueError(f"{verb} is for {names}; got {self!r}. Begin with {names}.")


P, Q, DATA = Source("model"), Source("guide"), Source("data")


def _names(verb: str, sites: tuple[Any, ...]) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in sites):
        raise TypeError(f"the sites of {verb} must be names; got {sites!r}. For instance {verb}('z').")
    return sites
