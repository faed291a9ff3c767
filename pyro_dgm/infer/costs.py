"""What a latent's score is multiplied with under a bound that is a sum over sites: the costs it can have caused."""

__all__ = ["downstream_cost", "with_particles"]

from torch import Tensor

from pyro_dgm.infer.programs import Traces, masked_and_scaled, plates_of, sample_sites


def downstream_cost(traces: Traces, name: str) -> Tensor:
    r"""The terms of the ELBO that a latent can have an effect on, each element of its plates with its own.

    All of the model's terms, and those of the guide that are not drawn before it. Elements of a plate are independent
    of each other, so a term inside a plate of the latent is its own element's alone (Rao-Blackwellisation); a term
    outside of it is shared by all. Every term has its full scale.

    References:
        Schulman, Heess, Weber and Abbeel (2015), Gradient Estimation Using Stochastic Computation Graphs,
        arXiv:1506.05254; Ranganath, Gerrish and Blei (2014), Black Box Variational Inference, section 3.1,
        arXiv:1401.0118.

    Arguments:
        traces: a run whose log-probabilities have been computed.
        name: the latent.

    Returns:
        A tensor with the particles first, and the latent's plates on their own dimensions: (K, ...), without gradient.
    """
    guide = sample_sites(traces.guide)
    own = {frame.name for frame in plates_of(guide[name])}
    earlier = list(guide)[: list(guide).index(name)]
    sites = [(1.0, site) for site in sample_sites(traces.model).values()]
    sites += [(-1.0, site) for other, site in guide.items() if other not in earlier]
    total: Tensor | float = 0.0
    for sign, site in sites:
        cost = sign * masked_and_scaled(site["unscaled_log_prob"].detach(), site)
        shared = {frame.dim for frame in plates_of(site) if frame.name in own}  # another plate may be on the same one
        summed = [dim for dim in range(-cost.dim(), 0) if dim not in shared and dim != traces.particle_dim]
        total = total + (cost.sum(summed, keepdim=True) if summed else cost)
    assert isinstance(total, Tensor)
    return with_particles(total, traces)


def with_particles(tensor: Tensor, traces: Traces) -> Tensor:
    """A tensor on the plates' dimensions, its particles brought to the front: (K, ...)."""
    if traces.particle_dim is None:
        return tensor.unsqueeze(0)
    missing = -traces.particle_dim - tensor.dim()
    tensor = tensor.reshape((1,) * missing + tuple(tensor.shape))
    return tensor.expand(traces.num_particles, *tensor.shape[1:])
