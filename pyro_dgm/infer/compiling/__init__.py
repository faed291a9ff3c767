"""Steps that are traced once, model, guide, objective, backward and optimiser together, and run as one function."""

from pyro_dgm.infer.compiling.refusals import CompileError
from pyro_dgm.infer.compiling.step import CompiledStep, Compiler, Outcome

__all__ = ["CompileError", "CompiledStep", "Compiler", "Outcome"]
