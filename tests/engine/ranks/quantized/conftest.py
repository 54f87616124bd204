"""Tiny Llamas quantized by each scheme's definition, and their dequantized twins."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from formgate.engine.engine import Engine
from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from tests.engine.ranks.quantized.tiny_llama import SHAPE

GROUP = 32
PROMPTS = [[5, 9, 3], [17, *range(60, 90)], [100, 7, 8, 9, 11, 12]]
Tensors = dict[str, torch.Tensor]


class Scheme(NamedTuple):
    """`quantize`: a layer's weight -> (its tensors in a checkpoint, the weight that they mean)."""

    config: dict
    quantize: Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


def integers_of(
    weight: torch.Tensor, bits: int, group: int, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[out, in] -> values [out, in], scales and zeros [out, groups], by rounding to nearest"""
    top = 2**bits - 1
    grouped = weight.unflatten(1, (-1, group))
    if symmetric:
        scales = grouped.abs().amax(-1) * 2 / top
        zeros = torch.full_like(scales, 2 ** (bits - 1))
    else:
        low = grouped.amin(-1).clamp(max=0)
        scales = (grouped.amax(-1).clamp(min=0) - low) / top
        zeros = (-low / scales).round().clamp(1, top)
    scales = scales.half().float()
    values = (grouped / scales[..., None] + zeros[..., None]).round().clamp(0, top)
    return values.flatten(1).long(), scales, zeros.long()


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """int64 [n, m] -> int32 [n, m * bits / 32], the first of a word in its lowest bits"""
    shifts = torch.arange(0, 32, bits)
    words = (values.unflatten(1, (-1, 32 // bits)) << shifts).sum(-1)
    return words.where(words < 1 << 31, words - (1 << 32)).int().contiguous()


def meaning(values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """All [out, in]"""
    return (values - zeros) * scales


def awq(weight: torch.Tensor, group: int = GROUP) -> tuple[Tensors, torch.Tensor]:
    group = weight.shape[1] if group == -1 else group
    values, scales, zeros = integers_of(weight, 4, group, symmetric=False)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

    def packed(of_outputs: torch.Tensor) -> torch.Tensor:  # [n, out]
        return pack(of_outputs.unflatten(1, (-1, 8))[..., order].flatten(1), 4)

    tensors = {
        "qweight": packed(values.t()),
        "qzeros": packed(zeros.t()),
        "scales": scales.t().half().contiguous(),
    }
    return tensors, meaning(values, *(one.repeat_interleave(group, 1) for one in (scales, zeros)))


def gptq(
    weight: torch.Tensor, bits: int, *, by_activation: bool, symmetric: bool, offset: int = 1
) -> tuple[Tensors, torch.Tensor]:
    inputs = weight.shape[1]
    order = torch.arange(inputs)
    if by_activation:  # the same for all matrices of as many inputs, as it follows from these
        order = torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))
    values, scales, zeros = integers_of(weight[:, order], bits, GROUP, symmetric=symmetric)
    place = order.argsort()
    values, g_idx = values[:, place], (torch.arange(inputs) // GROUP)[place]
    tensors = {
        "qweight": pack(values, bits).t().contiguous(),
        "qzeros": pack((zeros.t() - offset) % 2**bits, bits),
        "scales": scales.t().half().contiguous(),
        "g_idx": g_idx.int(),
        "bias": torch.zeros(weight.shape[0]),  # which AutoGPTQ adds
    }
    return tensors, meaning(values, scales[:, g_idx], zeros[:, g_idx])


def gptq_scheme(
    bits: int, *, by_activation: bool, symmetric: bool, form: str | None = None
) -> Scheme:
    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": GROUP,
        "desc_act": by_activation,
        "sym": symmetric,
    } | ({"checkpoint_format": form} if form else {})
    offset = int(form != "gptq_v2")
    quantize = partial(
        gptq, bits=bits, by_activation=by_activation, symmetric=symmetric, offset=offset
    )
    return Scheme(config, quantize)


def packed_integers(
    weight: torch.Tensor, bits: int, group: int, *, symmetric: bool, by_activation: bool
) -> tuple[Tensors, torch.Tensor]:
    inputs = weight.shape[1]
    group = inputs if group == -1 else group
    order = torch.arange(inputs)
    if by_activation:
        order = torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))
    values, scales, zeros = integers_of(weight[:, order], bits, group, symmetric=symmetric)
    place = order.argsort()
    values, g_idx = values[:, place], (torch.arange(inputs) // group)[place]
    tensors = {
        "weight_packed": pack(values, bits),
        "weight_scale": scales.half(),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors["weight_zero_point"] = pack(zeros.t(), bits).t().contiguous()
    if by_activation:
        tensors["weight_g_idx"] = g_idx.int()
    return tensors, meaning(values, scales[:, g_idx], zeros[:, g_idx])


def compressed(weights: dict, activations: dict | None = None, **fields) -> dict:
    group = {"weights": weights, "input_activations": activations, "targets": ["Linear"]}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return config | {"ignore": ["lm_head"]} | fields


def packed_scheme(
    bits: int, group: int, *, symmetric: bool = True, by_activation: bool = False
) -> Scheme:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group == -1 else "group",
        "group_size": None if group == -1 else group,
        "actorder": "group" if by_activation else None,
    }
    quantize = partial(
        packed_integers, bits=bits, group=group, symmetric=symmetric, by_activation=by_activation
    )
    return Scheme(compressed(weights, format="pack-quantized"), quantize)


def scaled(
    weight: torch.Tensor, dtype: torch.dtype, strategy: str, *, static: bool
) -> tuple[Tensors, torch.Tensor]:
    largest = 127.0 if dtype is torch.int8 else 448.0
    scales = weight.abs().amax(1, keepdim=True) / largest
    if strategy == "tensor":
        scales = scales.max().reshape(1)
    values = weight / scales
    values = (values.round() if dtype is torch.int8 else values).to(dtype)
    tensors = {"weight": values, "weight_scale": scales}
    if static:
        tensors["input_scale"] = torch.tensor([0.05])
    return tensors, values.float() * scales


def scaled_scheme(kind: str, strategy: str, *, static: bool = False) -> Scheme:
    numbers = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}
    strategy_of_inputs = "tensor" if static else "token"
    inputs = numbers | {"dynamic": not static, "strategy": strategy_of_inputs}
    dtype = torch.int8 if kind == "int" else torch.float8_e4m3fn
    quantize = partial(scaled, dtype=dtype, strategy=strategy, static=static)
    return Scheme(compressed(numbers | {"dynamic": False}, inputs), quantize)


def blocks(weight: torch.Tensor, rows: int, columns: int) -> tuple[Tensors, torch.Tensor]:
    outputs, inputs = weight.shape
    of_rows, of_columns = torch.arange(outputs) // rows, torch.arange(inputs) // columns
    scales = torch.zeros(int(of_rows[-1]) + 1, int(of_columns[-1]) + 1)
    for row, column in itertools.product(*map(range, scales.shape)):
        block = weight[of_rows == row][:, of_columns == column]
        scales[row, column] = block.abs().max() / 448
    scale_of = scales[of_rows][:, of_columns]
    values = (weight / scale_of).to(torch.float8_e4m3fn)
    return {"weight": values, "weight_scale_inv": scales}, values.float() * scale_of


FP8_CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic"}
AWQ_CONFIG = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
SCHEMES = {
    "awq": Scheme(AWQ_CONFIG, awq),
    "awq, one group": Scheme(AWQ_CONFIG | {"group_size": -1}, partial(awq, group=-1)),
    "gptq": gptq_scheme(4, by_activation=False, symmetric=True),
    "gptq, desc_act": gptq_scheme(4, by_activation=True, symmetric=False),
    "gptq, 8 bits": gptq_scheme(8, by_activation=False, symmetric=False, form="gptq_v2"),
    "gptq, 8 bits, desc_act": gptq_scheme(8, by_activation=True, symmetric=True),
    "packed": packed_scheme(4, GROUP),
    "packed, asymmetric": packed_scheme(4, GROUP, symmetric=False),
    "packed, channel": packed_scheme(4, -1),
    "packed, actorder": packed_scheme(4, GROUP, by_activation=True),
    "float-quantized, tensor, static": scaled_scheme("float", "tensor", static=True),
    "float-quantized, channel": scaled_scheme("float", "channel"),
    "int-quantized": scaled_scheme("int", "channel"),
    "int-quantized, tensor, static": scaled_scheme("int", "tensor", static=True),
    "fp8": Scheme(
        FP8_CONFIG, partial(scaled, dtype=torch.float8_e4m3fn, strategy="tensor", static=False)
    ),
    # Neither the outputs of a rank nor those of query, key and value are whole blocks.
    "fp8, blocks": Scheme(
        FP8_CONFIG | {"weight_block_size": [24, 32]}, partial(blocks, rows=24, columns=32)
    ),
    "packed, 8 bits": packed_scheme(8, -1, symmetric=False),
}


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


@pytest.fixture(params=[name for name in SCHEMES if name.startswith(("awq", "gptq", "packed"))])
def grouped_scheme(request: pytest.FixtureRequest) -> Scheme:
    """One whose weights have scales for groups of inputs."""
    return SCHEMES[request.param]


@pytest.fixture
def save_twins() -> Callable[..., tuple[Path, Path]]:
    """Write a random model twice: quantized, and dequantized in float32. `left`: modules that stay
    as they are.
    """

    def save(
        scheme: Scheme,
        folder: Path,
        left: tuple[str, ...] = (),
        config: PreTrainedConfig | None = None,
    ) -> tuple[Path, Path]:
        quantized, twin = folder / "quantized", folder / "twin"
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config or LlamaConfig(**SHAPE)).save_pretrained(twin)
        plain, tensors = load_file(twin / "model.safetensors"), {}
        for name, tensor in list(plain.items()):
            module = name.removesuffix(".weight")
            linear = module.endswith(("_proj", "w1", "w2", "w3"))
            if linear and not any(part in module for part in left):
                stored, plain[name] = scheme.quantize(tensor)
                tensors |= {f"{module}.{part}": one for part, one in stored.items()}
            else:
                tensors[name] = tensor
        save_file(plain, twin / "model.safetensors", metadata={"format": "pt"})
        quantized.mkdir()
        save_file(tensors, quantized / "model.safetensors", metadata={"format": "pt"})
        fields = json.loads((twin / "config.json").read_text())
        fields["quantization_config"] = scheme.config
        (quantized / "config.json").write_text(json.dumps(fields))
        return quantized, twin

    return save


@pytest.fixture(scope="session")
def schemes() -> dict[str, Scheme]:
    return SCHEMES


def greedy_answers(engine: Engine) -> list[tuple[list[int], list[float]]]:
    """Greedy tokens and their logprobs."""
    for number, prompt in enumerate(PROMPTS):
        params = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True, logprobs=1)
        engine.add_request(AddRequest(str(number), prompt, params))
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in PROMPTS]
    while engine.has_work:
        for output in engine.step().outputs:
            tokens, logprobs = found[int(output.request_id)]
            tokens += output.token_ids
            logprobs += [one.chosen.logprob for one in output.logprobs or [] if one is not None]
    return found


def same_answers(ours, theirs) -> bool:
    return all(
        mine[0] == their[0] and mine[1] == pytest.approx(their[1], abs=1e-3)
        for mine, their in zip(ours, theirs, strict=True)
    )


@pytest.fixture
def answers() -> Callable[[Engine], list[tuple[list[int], list[float]]]]:
    return greedy_answers


@pytest.fixture
def same() -> Callable[..., bool]:
    return same_answers
