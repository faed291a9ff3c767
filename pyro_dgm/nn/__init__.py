"""Networks: tensors in, tensors out, any leading dimensions."""

from pyro_dgm.nn.batched import Batched
from pyro_dgm.nn.convolutional import ConvDecoder, ConvEncoder
from pyro_dgm.nn.dcgan import DCCritic, DCGenerator
from pyro_dgm.nn.local import LocalModule
from pyro_dgm.nn.mlp import MLP, ResidualMLP

__all__ = ["MLP", "Batched", "ConvDecoder", "ConvEncoder", "DCCritic", "DCGenerator", "LocalModule", "ResidualMLP"]
