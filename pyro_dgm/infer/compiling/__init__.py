"""Steps that are traced once, model, guide, objective, backward and optimiser together, and run as one function."""

from pyro_dgm.infer.compiling.building import Compiler
from pyro_dgm.infer.compiling.payoff import Payoff
from pyro_dgm.infer.compiling.refusals import CompileError
from pyro_dgm.infer.compiling.step import CompiledStep, Outcome

__all__ = ["CompileError", "CompiledStep", "Compiler", "Outcome", "Payoff"]
