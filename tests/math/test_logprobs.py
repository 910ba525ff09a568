"""Chunked log-probs and entropies: same values and gradients as the naive formula, whatever the chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tether.math.logprobs import Logits, token_logprobs

N, D, V = 13, 6, 11
TRANSFORMS = [Logits(), Logits(scale=0.25), Logits(softcap=3.0), Logits(scale=2.0, softcap=1.5)]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(V, (N,), generator=generator), bias


def naive(hidden, weight, targets, bias, temperature, transform):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = logits * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    p = torch.softmax(logits / temperature, -1)
    return p[torch.arange(len(targets)), targets].log(), torch.special.entr(p).sum(-1)


def gradients(logprobs: Tensor, entropy: Tensor | None, wrt: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 2, N, dtype=logprobs.dtype)
    loss = (logprobs * weights).sum() + (0 if entropy is None else (entropy * weights.flip(0)).sum())
    return torch.autograd.grad(loss, wrt)


def test_by_hand():
    # Logits (0, ln 3): p = (1/4, 3/4); at temperature 1/2 logits (0, 2 ln 3): p = (1/10, 9/10).
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([1]), entropy=True)
    assert logprobs.item() == pytest.approx(math.log(3 / 4), rel=1e-6)
    assert entropy is not None
    assert entropy.item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel=1e-6)
    cooler, nothing = token_logprobs(hidden, weight, torch.tensor([1]), temperature=0.5)
    assert cooler.item() == pytest.approx(math.log(0.9), rel=1e-6)
    assert nothing is None


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("chunk_elements", [1, V, 4 * V + 3, N * V - 1, N * V, 2**25])
def test_equal_to_naive(transform: Logits, temperature: float, with_bias: bool, entropy: bool, chunk_elements: int):
    hidden, weight, targets, bias = inputs()
    wrt = [hidden, weight, bias] if with_bias else [hidden, weight]
    expected = naive(hidden, weight, targets, bias if with_bias else None, temperature, transform)
    found = token_logprobs(
        hidden,
        weight,
        targets,
        bias=bias if with_bias else None,
        temperature=temperature,
        transform=transform,
        entropy=entropy,
        chunk_elements=chunk_elements,
    )
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    if entropy:
        torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-12)
    else:
        assert found[1] is None
    expected_gradients = gradients(expected[0], expected[1] if entropy else None, wrt)
    torch.testing.assert_close(gradients(*found, wrt), expected_gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("chunk_elements", [3 * V, 2**25])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradcheck(transform: Logits, chunk_elements: int):
    hidden, weight, targets, bias = inputs()

    def both(h: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        logprobs, entropy = token_logprobs(
            h, w, targets, bias=b, temperature=0.8, transform=transform, entropy=True, chunk_elements=chunk_elements
        )
        assert entropy is not None
        return logprobs, entropy

    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


class Live:
    """Tallies the elements of (rows, V) tensors that autograd keeps between forward and backward."""

    def __init__(self) -> None:
        self.elements = 0

    def __enter__(self) -> Live:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: Tensor) -> Tensor:
        if tensor.dim() == 2 and tensor.shape[1] == V:
            self.elements += tensor.numel()
        return tensor


@pytest.mark.parametrize("entropy", [True, False])
def test_chunks_keep_no_logits(entropy: bool):
    hidden, weight, targets, _ = inputs()
    with Live() as one:
        token_logprobs(hidden, weight, targets, entropy=entropy)
    with Live() as many:
        token_logprobs(hidden, weight, targets, entropy=entropy, chunk_elements=4 * V)
    assert one.elements >= N * V
    assert many.elements == 0


def test_no_chunk_is_larger_than_asked(monkeypatch: pytest.MonkeyPatch):
    import tether.math.logprobs as module

    sizes: list[int] = []
    real = torch.nn.functional.linear

    def watched(*args):
        out = real(*args)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(module.F, "linear", watched)
    hidden, weight, targets, _ = inputs()
    with torch.no_grad():
        token_logprobs(hidden, weight, targets, chunk_elements=5 * V + 2)
    assert sum(sizes) == N * V
    assert max(sizes) <= 5 * V + 2
    assert len(sizes) == 3


def test_rows_are_independent_of_their_neighbours():
    hidden, weight, targets, _ = inputs(torch.float32)
    together = token_logprobs(hidden, weight, targets)[0]
    apart = torch.cat([token_logprobs(hidden[i : i + 1], weight, targets[i : i + 1])[0] for i in range(N)])
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-6)


def test_softmax_of_bfloat16_is_fp32():
    """The log-softmax of bf16 logits is exact in fp32: much closer than bf16's 3 digits would allow."""
    hidden, weight, targets, _ = inputs(torch.bfloat16)
    found, entropy = token_logprobs(hidden, weight, targets, entropy=True, temperature=0.7)
    assert entropy is not None
    assert found.dtype == entropy.dtype == torch.float32
    exact = (torch.nn.functional.linear(hidden, weight).double() / 0.7).log_softmax(-1)
    torch.testing.assert_close(found.double(), exact.gather(1, targets[:, None]).squeeze(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=1e-6, atol=1e-6)
    (found.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def test_large_logits_stay_finite():
    hidden, weight = torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0], [0.0]])
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([1]), entropy=True)
    assert entropy is not None
    assert logprobs.item() == -2e4
    assert entropy.item() == 0.0


@pytest.mark.parametrize("entropy", [True, False])
def test_no_tokens(entropy: bool):
    hidden, weight, targets, _ = inputs()
    logprobs, entropies = token_logprobs(hidden[:0], weight, targets[:0], entropy=entropy, temperature=0.5)
    assert logprobs.shape == (0,)
    assert (entropies is not None) == entropy
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() == 0


def test_frozen_head_gets_no_gradient():
    hidden, weight, targets, _ = inputs()
    frozen = weight.detach()
    logprobs, _ = token_logprobs(hidden, frozen, targets, chunk_elements=3 * V)
    expected, _ = token_logprobs(hidden, weight, targets)
    torch.testing.assert_close(*(torch.autograd.grad(out.sum(), hidden)[0] for out in (logprobs, expected)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("chunk_elements", [4 * V, 2**25])
def test_cuda_equals_cpu(chunk_elements: int):
    hidden, weight, targets, bias = inputs()
    expected = token_logprobs(hidden, weight, targets, bias=bias, entropy=True)
    there = [tensor.detach().cuda().requires_grad_() for tensor in (hidden, weight, bias)]
    found = token_logprobs(
        there[0], there[1], targets.cuda(), bias=there[2], entropy=True, chunk_elements=chunk_elements
    )
    for here, cuda in zip(expected, found, strict=True):
        torch.testing.assert_close(cuda.cpu(), here, rtol=1e-9, atol=1e-10)
    loss = sum(out.sum() for out in found)
    expected_gradients = torch.autograd.grad(sum(out.sum() for out in expected), [hidden, weight, bias])
    for here, cuda in zip(expected_gradients, torch.autograd.grad(loss, there), strict=True):
        torch.testing.assert_close(cuda.cpu(), here, rtol=1e-8, atol=1e-10)
