"""Contract tests: what every network, conditional distribution, model, guide and critic must do.

A new class gets its tests by one line in a list of ``tests/nn``, ``tests/distributions``, ``tests/models``,
``tests/guides`` or ``tests/adversarial``. Models and guides are given as functions that build them anew, since Pyro's
``module_local_params`` acts when a module is built.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_dgm.adversarial.critics import CriticModule
from pyro_dgm.distributions import ConditionalDistribution, Flow, StandardNormal
from pyro_dgm.distributions.transforms import ConditionalTransform, Inverse
from pyro_dgm.infer import log_weights

Shape = Sequence[int]
Programs = Callable[[], tuple[nn.Module, nn.Module]]

STOCK_OBJECTIVES = (Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO)


@contextmanager
def refuses(error: type[Exception], *parts: str) -> Iterator[None]:
    """Expects an error of the house form "rule; got this. Cure." whose message holds every one of the parts."""
    with pytest.raises(error) as caught:
        yield
    message = re.split(r"\n\s*Trace Shapes:", str(caught.value))[0]  # which Pyro appends
    assert re.search(r"\S; +got .+\. +\S", message, re.DOTALL), f"not of the form 'rule; got. Cure.': {message}"
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Copies of all parameters and buffers."""
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def assert_every_parameter_has_a_gradient(*modules: nn.Module) -> None:
    """Fails when a parameter has no gradient, a zero one, or one that is not finite."""
    for module in modules:
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero"


# Networks


def check_network(net: nn.Module, *input_shapes: Shape, out_shape: Shape) -> None:
    """A network takes any leading dimensions, trains, and can be copied, saved and computed in float64.

    Arguments:
        net: the network.
        input_shapes: shapes of one datum of each input.
        out_shape: shape of one output.
    """
    net.eval()  # a batch norm in training mode mixes the data
    inputs = [torch.randn(5, 2, *shape) for shape in input_shapes]
    y = net(*inputs)
    assert y.shape == (5, 2, *out_shape)
    for row in range(5):
        torch.testing.assert_close(y[row], net(*[x[row] for x in inputs]))
        torch.testing.assert_close(y[row, 0], net(*[x[row, 0] for x in inputs]))
    y.square().sum().backward()
    assert_every_parameter_has_a_gradient(net)

    torch.testing.assert_close(copy.deepcopy(net)(*inputs), y)
    other = copy.deepcopy(net)
    nn.init.constant_(next(other.parameters()), 0.3)
    assert not torch.allclose(other(*inputs), y)
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(*inputs), y)

    double = copy.deepcopy(net).double()(*[x.double() for x in inputs])
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), y, atol=1e-4, rtol=1e-4)


def check_network_errors(net: nn.Module, input_shape: Shape) -> None:
    """A network says which input it takes, which it got, and what to do about it."""
    x = torch.randn(3, *input_shape)
    with refuses(ValueError, str(input_shape[-1]), str(input_shape[-1] + 1)):
        net(torch.randn(3, *input_shape[:-1], input_shape[-1] + 1))
    with refuses(TypeError, "torch.float32", "torch.float64"):
        net(x.double())
    with refuses(TypeError, "torch.uint8", "scale pixels"):
        net(x.to(torch.uint8))
    with refuses(TypeError, "torch.int64"):
        net(x.long())


# Conditional distributions


def check_conditional(conditional: ConditionalDistribution, *context_shapes: Shape, event_shape: Shape) -> None:
    """A conditional distribution has the shapes it promises, scores its samples, trains, and can be copied and saved.

    Arguments:
        conditional: the conditional distribution.
        context_shapes: shapes of one datum of each context; none for a prior.
        event_shape: shape of one draw.
    """
    batch = (5, 2) if context_shapes else ()
    context = [torch.randn(*batch, *shape) for shape in context_shapes]
    d = conditional(*context)
    assert tuple(d.batch_shape) == batch
    assert tuple(d.event_shape) == tuple(event_shape)

    x = d.sample((3,))
    assert x.shape == (3, *batch, *event_shape)
    log_prob = d.log_prob(x)
    assert log_prob.shape == (3, *batch)
    assert log_prob.isfinite().all()
    torch.testing.assert_close(d.expand((3, *batch)).log_prob(x), log_prob)
    conditional.check_data(x.reshape(-1, *event_shape))
    with refuses(ValueError, "1 NaN", "first: 1"):
        conditional.check_data(_spoil(x.reshape(-1, *event_shape)))

    if list(conditional.parameters()):
        log_prob.sum().backward()
        assert_every_parameter_has_a_gradient(conditional)
    if d.has_rsample:
        assert d.rsample().requires_grad == bool(list(conditional.parameters()))

    for other in (copy.deepcopy(conditional), _reloaded(conditional)):
        torch.testing.assert_close(other(*context).log_prob(x), log_prob)
    double = copy.deepcopy(conditional).double()(*[c.double() for c in context])
    y = x.double() if x.is_floating_point() else x
    if double.support is constraints.sphere:
        y = y / y.norm(dim=-1, keepdim=True)  # which in float32 is 1 to fewer digits than float64 asks for
    assert double.log_prob(y).dtype is torch.float64
    torch.testing.assert_close(double.log_prob(y).float(), log_prob, atol=1e-3, rtol=1e-3)


def check_normalised(d: Distribution, points: Tensor, cell: float = 1.0, atol: float = 1e-4) -> None:
    """The masses at ``points``, all that d can take, or its density on a grid of that ``cell``, sum to one."""
    values = points.reshape(-1, *[1] * len(d.batch_shape), *d.event_shape).expand(-1, *d.batch_shape, *d.event_shape)
    total = (d.log_prob(values).exp() * cell).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=atol, rtol=0.0)


def _spoil(x: Tensor) -> Tensor:
    x = x.clone() if x.is_floating_point() else x.double()
    x.reshape(len(x), -1)[1, 0] = torch.nan
    return x


def _reloaded(module: nn.Module) -> nn.Module:
    """A copy that was moved elsewhere and brought back by the original's ``state_dict``."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1.0
    other.load_state_dict(module.state_dict())
    return other


# Transforms of flows


def check_transform(build: Callable[[int], ConditionalTransform], context_features: int) -> None:
    """A transform is a bijection whose log-determinant is its Jacobian's, in any context, and a density of mass one.

    Arguments:
        build: makes a new transform of vectors of that many features.
        context_features: length of its context.
    """
    torch.manual_seed(0)
    transform = build(3).double()
    assert (transform.features, transform.context_features) == (3, context_features)
    with torch.no_grad():
        for parameter in transform.parameters():  # far from the identity
            parameter += 0.4 * torch.randn_like(parameter)
    context = [torch.randn(4, context_features, dtype=torch.float64)] if context_features else []
    x = torch.randn(5, 4, 3, dtype=torch.float64) * 2
    check_directions(transform, x, context)
    check_jacobian(transform, x, context)
    check_conditioning_on_rows(transform, x, context)
    check_flow_gradients(transform, context)
    check_far_points(transform, x, context)
    torch.manual_seed(1)
    check_flow_density(build(2).double(), context_features)
    single = copy.deepcopy(transform).float()(*[c.float() for c in context])
    if transform.draws:
        torch.testing.assert_close(single(x.float()).double(), transform(*context)(x), atol=1e-4, rtol=1e-4)


def check_directions(transform: ConditionalTransform, x: Tensor, context: list[Tensor]) -> None:
    """Forwards and back again is where it began, with the same log-determinant, both cached and afresh."""
    if not transform.draws:
        with refuses(NotImplementedError, "one way only"):
            transform(*context)(x)
        return
    bijection = transform(*context)
    y = bijection(x)
    log_det = bijection.log_abs_det_jacobian(x, y)
    assert y.shape == x.shape
    assert log_det.shape == x.shape[:-1] or log_det.shape == ()
    assert bijection.inv(y) is x
    torch.testing.assert_close(transform(*context).log_abs_det_jacobian(x, y), log_det, atol=1e-7, rtol=1e-7)
    if not transform.scores_any_point:
        with refuses(NotImplementedError, "one way only"):
            bijection.inv(y.clone())
        return
    afresh = transform(*context)
    found = afresh.inv(y.detach())
    torch.testing.assert_close(found, x, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(afresh.log_abs_det_jacobian(found, y), log_det, atol=1e-6, rtol=1e-6)
    backwards = torch.autograd.functional.jacobian(lambda v: transform(*context).inv(v).sum((0, 1)), y.detach())
    forwards = torch.autograd.functional.jacobian(lambda v: transform(*context)(v).sum((0, 1)), x)
    product = forwards.movedim(0, -2) @ backwards.movedim(0, -2)
    torch.testing.assert_close(product, torch.eye(3, dtype=x.dtype).expand_as(product), atol=1e-6, rtol=1e-6)


def check_jacobian(transform: ConditionalTransform, x: Tensor, context: list[Tensor]) -> None:
    """The log-determinant is that of the Jacobian that autograd finds, at every point."""
    bijection = transform(*context) if transform.draws else transform(*context).inv
    jacobian = torch.autograd.functional.jacobian(lambda v: bijection(v).sum((0, 1)), x).movedim(0, -2)
    log_det = bijection.log_abs_det_jacobian(x, bijection(x)).expand(x.shape[:-1])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], atol=1e-6, rtol=1e-6)


def check_conditioning_on_rows(transform: ConditionalTransform, x: Tensor, context: list[Tensor]) -> None:
    """Every row depends on its own row of the context alone, and does depend on it if it has one."""
    bijection = transform(*context) if transform.draws else transform(*context).inv
    y = bijection(x)
    for row in range(4):
        other = transform(*[c[row] for c in context])
        torch.testing.assert_close((other if transform.draws else other.inv)(x[:, row]), y[:, row])
    same = x[:1, :1].expand(1, 4, 3)
    spread = bijection(same).std(dim=1).sum()
    assert bool(spread > 1e-3) == bool(context)
    if context:  # a likelihood under a particle plate: one value, a context for each particle
        many = transform(torch.stack([context[0], 2 * context[0]]))
        many = many if transform.draws else many.inv
        z = many(x[0])
        assert z.shape == (2, *x.shape[1:])
        assert many.log_abs_det_jacobian(x[0], z).shape == z.shape[:-1]
        torch.testing.assert_close(z[0], y[0])
        if transform.draws and transform.scores_any_point:
            torch.testing.assert_close(many.inv(y[0].clone())[0], x[0], atol=1e-6, rtol=1e-6)
        with refuses(ValueError, "one context", "got 0"):
            transform()


def check_flow_gradients(transform: ConditionalTransform, context: list[Tensor]) -> None:
    """Draws and scores have gradients for every parameter, those of the inverse by finite differences as well."""
    base = StandardNormal(3).double()
    flow = Flow(base, [transform])
    if flow.draws:
        d = flow(*context)
        z = d.rsample((6,))
        (d.log_prob(z) + z.square().sum(-1) + z.prod(-1)).sum().backward()
        assert_every_parameter_has_a_gradient(transform)
        transform.zero_grad()
    if flow.scores_any_point:
        check_nothing_stale(transform, flow, context)
        points = torch.randn(6, *(c.shape[0] for c in context), 3, dtype=torch.float64)
        parameters = [p for p in transform.parameters() if p.requires_grad]

        def score(*values: Tensor) -> Tensor:
            with torch.no_grad():
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value)
            return flow(*context).log_prob(points).sum()

        score(*[p.detach().clone() for p in parameters]).backward()
        assert_every_parameter_has_a_gradient(transform) if transform.cheap != "draw" else None
        start = [p.detach().clone() for p in parameters]
        for parameter, values in zip(parameters, start, strict=True):
            direction = torch.randn_like(values)
            step = 1e-6 * direction
            ends = []
            for sign in (1, -1):
                shifted = [v + sign * step if v is values else v for v in start]
                ends.append(score(*shifted).item())
            score(*start)
            slope = (parameter.grad * direction).sum().item() if parameter.grad is not None else 0.0
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-4)
    transform.zero_grad()


def check_nothing_stale(transform: ConditionalTransform, flow: Flow, context: list[Tensor]) -> None:
    """What was drawn or scored without gradients is computed again where they are asked for."""
    points = torch.randn(6, *(c.shape[0] for c in context), 3, dtype=torch.float64)
    for draws in (False, True):
        gradients = []
        for is_first in (False, True):
            d = flow(*context)
            if draws and flow.draws:
                torch.manual_seed(3)
                points = d.sample((6,))
            if not is_first:
                with torch.no_grad():
                    d.log_prob(points)
            transform.zero_grad()
            d.log_prob(points).sum().backward()
            gradients.append([p.grad.clone() for p in transform.parameters() if p.grad is not None])
        fresh = flow(*context)
        transform.zero_grad()
        fresh.log_prob(points.clone()).sum().backward()
        expected = [p.grad.clone() for p in transform.parameters() if p.grad is not None]
        for found in gradients:
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    transform.zero_grad()


def check_far_points(transform: ConditionalTransform, x: Tensor, context: list[Tensor]) -> None:
    """Far from the origin values and gradients are finite."""
    x = (50 * x).requires_grad_()
    bijection = transform(*context) if transform.draws else transform(*context).inv
    y = bijection(x)
    (y.sum() + bijection.log_abs_det_jacobian(x, y).sum()).backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in transform.parameters())
    transform.zero_grad()


def check_flow_density(transform: ConditionalTransform, context_features: int) -> None:
    """The density that it makes of a normal has mass one in the plane, one way round or the other."""
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    flow = Flow(StandardNormal(2).double(), [transform if transform.scores_any_point else Inverse(transform)])
    context = [0.3 * torch.randn(1, context_features, dtype=torch.float64)] if context_features else []
    ticks = torch.arange(-10, 10, 0.03, dtype=torch.float64) + 0.015
    with torch.no_grad():
        check_normalised(flow(*context), torch.cartesian_prod(ticks, ticks), 0.03**2, atol=2e-3)


# Models and guides


def check_model(
    build: Programs, x: Tensor, context: Tensor | None = None, objectives: Sequence[type] = STOCK_OBJECTIVES
) -> None:
    """A model observes and simulates, and runs with its guide under everything stock Pyro has for the two.

    Arguments:
        build: makes a new model and guide, all of whose latents stand in the data plate.
        x: data, (B, *event), B being at least 3.
        context: what a conditional model takes beside them, (B, features).
        objectives: those of Pyro's that train the two.
    """
    check_observing_and_simulating(build, x, context)
    check_conditioning(build, x, context)
    check_predictive(build, x, context)
    check_scaling(build, x, context)
    check_particles(build, x, context)
    check_copies(build, x, context)
    for objective in objectives:
        for local in (False, True):
            with pyro.settings.context(module_local_params=local):
                check_training(build, objective(), x, context)
                check_isolation(build, objective(), x, context)


def check_observing_and_simulating(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """With data the model observes them, without it simulates; everything stands in the plate ``data``."""
    model, _ = build()
    observed = poutine.trace(model).get_trace(x, context)
    assert observed.nodes["x"]["is_observed"]
    assert observed.nodes["_RETURN"]["value"] is x
    simulated = poutine.trace(model).get_trace(None, context, num=len(x))
    assert not simulated.nodes["x"]["is_observed"]
    for trace in (observed, simulated):
        assert trace.nodes["x"]["value"].shape == x.shape
        for name in sample_sites(trace):
            frames = trace.nodes[name]["cond_indep_stack"]
            assert [(frame.name, frame.dim, frame.size) for frame in frames] == [("data", -1, len(x))]
        trace.compute_log_prob()
        assert all(trace.nodes[name]["log_prob"].shape == (len(x),) for name in sample_sites(trace))


def check_conditioning(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """Conditioning the simulator is observing, and unconditioning the observing model is simulating."""
    model, _ = build()
    observed = poutine.trace(model).get_trace(x, context)
    conditioned = poutine.condition(model, {"x": x})
    replayed = poutine.trace(poutine.replay(conditioned, observed)).get_trace(None, context, num=len(x))
    torch.testing.assert_close(replayed.log_prob_sum(), observed.log_prob_sum())
    free = poutine.trace(poutine.uncondition(model)).get_trace(x, context)
    assert not free.nodes["x"]["is_observed"]
    assert not torch.equal(free.nodes["x"]["value"], x)


def check_predictive(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """Prior and posterior predictive draws have shape (samples, B, *event), drawn in turn or side by side."""
    model, guide = build()
    for parallel in (False, True):
        prior = Predictive(model, num_samples=4, parallel=parallel)(None, context, num=len(x))
        simulator = poutine.uncondition(model)
        posterior = Predictive(simulator, guide=guide, num_samples=4, parallel=parallel, return_sites=("z", "x"))
        for draws in (prior, posterior(x, context)):
            assert draws["x"].shape == (4, *x.shape)
            assert draws["z"].shape[:2] == (4, len(x))


def check_scaling(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """A batch of B that stands for N data weighs N / B, in model and guide."""
    for program in build():
        trace = poutine.trace(program).get_trace(x, context, data_size=10 * len(x))
        assert {trace.nodes[name]["scale"] for name in sample_sites(trace)} == {10.0}
        with refuses(ValueError, "data_size", f"{len(x)} rows", str(len(x) - 1)):
            program(x, context, data_size=len(x) - 1)


def check_particles(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """Particles on a plate to the left run through every network, as many as asked for."""
    model, guide = build()
    objective = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    objective.differentiable_loss(model, guide, x, context).backward()
    assert_every_parameter_has_a_gradient(model, guide)
    weights = log_weights(model, guide, x, context, num_particles=4).local
    assert weights.shape == (4, len(x))
    assert weights.isfinite().all()


def check_copies(build: Programs, x: Tensor, context: Tensor | None = None) -> None:
    """After a step, a deep copy and a newly built pair given the ``state_dict`` score the data alike."""
    model, guide = build()
    optim = pyro.optim.Adam({"lr": 1e-2})
    SVI(model, guide, optim, Trace_ELBO()).step(x, context)
    fresh = build()
    for program, source in zip(fresh, (model, guide), strict=True):
        program.load_state_dict(source.state_dict())
    expected = seeded_loss(Trace_ELBO(), model, guide, x, context)
    for pair in (fresh, copy.deepcopy((model, guide))):
        assert seeded_loss(Trace_ELBO(), *pair, x, context) == pytest.approx(expected, rel=1e-6)
        SVI(*pair, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x, context)
        assert seeded_loss(Trace_ELBO(), *pair, x, context) != expected
    assert seeded_loss(Trace_ELBO(), model, guide, x, context) == expected


def check_training(build: Programs, objective: Any, x: Tensor, context: Tensor | None = None) -> None:
    """Stock SVI moves every parameter, lowers the loss, and leaves nothing in the global store."""
    model, guide = build()
    initial = [parameter.clone() for module in (model, guide) for parameter in module.parameters()]
    before = seeded_loss(objective, model, guide, x, context)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3}), objective)
    for _ in range(10):
        svi.step(x, context)
    trained = [parameter for module in (model, guide) for parameter in module.parameters()]
    assert all(not torch.equal(old, new) for old, new in zip(initial, trained, strict=True))
    assert seeded_loss(objective, model, guide, x, context) < before
    assert len(pyro.get_param_store()) == 0


def check_isolation(build: Programs, objective: Any, x: Tensor, context: Tensor | None = None) -> None:
    """A second pair keeps its own initial values when a first one has been trained (pitfall 16)."""
    first = build()
    SVI(*first, pyro.optim.Adam({"lr": 1e-2}), objective).step(x, context)
    second = build()
    initial = tensors_of(*second)
    seeded_loss(objective, *second, x, context)
    torch.testing.assert_close(tensors_of(*second), initial, rtol=0.0, atol=0.0)


def check_guide(build: Callable[[], nn.Module], x: Tensor, context: Tensor | None = None) -> None:
    """A guide draws one value of every latent per datum, scores it, trains, and says what is wrong with the data."""
    guide = build()
    trace = poutine.trace(guide).get_trace(x, context)
    trace.compute_log_prob()
    sites = sample_sites(trace)
    assert sites
    assert set(trace.nodes["_RETURN"]["value"]) == set(sites)
    for name in sites:
        site = trace.nodes[name]
        assert [(frame.name, frame.dim) for frame in site["cond_indep_stack"]] == [("data", -1)]
        assert site["value"].shape[0] == len(x)
        assert site["log_prob"].shape == (len(x),)
        assert site["log_prob"].isfinite().all()
    trace.log_prob_sum().backward()
    assert_every_parameter_has_a_gradient(guide)
    assert len(pyro.get_param_store()) == 0
    with refuses(ValueError, "reads data", "none"):
        guide()
    with refuses(ValueError, "at least one datum", "(0"):
        guide(x[:0], None if context is None else context[:0])


def sample_sites(trace: poutine.Trace) -> list[str]:
    """Names of the sample sites of a trace, the plates' own left out."""
    return [name for name in trace.stochastic_nodes + trace.observation_nodes if name != "data"]


def seeded_loss(objective: Any, model: nn.Module, guide: nn.Module, *args: Any) -> float:
    """The loss with fixed random numbers, averaged over ten draws, without touching torch's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), objective)
        return sum(svi.evaluate_loss(*args) for _ in range(10)) / 10


# Critics


def check_critic(build: Callable[[], CriticModule], *value_shapes: Shape) -> None:
    """A critic gives every row, or every pack of rows, one score of its own; it trains, and can be copied and saved.

    Arguments:
        build: makes a new critic.
        value_shapes: the event shape of each of the sites it is called with.
    """
    critic = build().eval()
    num_rows = 3 * critic.pac + (critic.pac > 1)  # one too many
    values = [torch.randn(num_rows, *shape, requires_grad=True) for shape in value_shapes]
    scores = critic(*values)
    assert scores.shape == (3,)
    for i in range(3):
        rows = slice(i * critic.pac, (i + 1) * critic.pac)
        torch.testing.assert_close(critic(*(value[rows] for value in values)), scores[i : i + 1])
    slopes = torch.autograd.grad(scores.square().sum(), [*values, *critic.parameters()])
    assert all(slope.isfinite().all() and slope.any() for slope in slopes)
    if critic.pac > 1:
        assert not any(slope[-1].any() for slope in slopes[: len(values)])

    for other in (copy.deepcopy(critic), _reloaded(critic)):
        torch.testing.assert_close(other.eval()(*values), scores, rtol=0.0, atol=0.0)
    double = copy.deepcopy(critic).double()(*(value.double() for value in values))
    assert double.dtype is torch.float64
    torch.testing.assert_close(double.float(), scores, atol=1e-4, rtol=1e-4)

    if critic.has_features:
        assert critic.features(*values).shape[0] == 3
    else:
        with refuses(ValueError, "features", "Critic"):
            critic.features(*values)
    critic.after_step()
    assert critic(*values).isfinite().all()

    with refuses(ValueError, "at least one site", "none"):
        critic()
    with refuses(ValueError, "at least one", "(0,"):
        critic(*(value[:0] for value in values))
    with refuses(TypeError, "one label of torch.int64", "one-hot"):
        critic(*values[:-1], torch.zeros(num_rows, dtype=torch.long))
    with refuses(TypeError, "float"):
        critic(*values[:-1], 1.0)
    if len(values) > 1:
        with refuses(ValueError, "as many rows", f"({num_rows - 1},"):
            critic(*values[:-1], values[-1][1:])
