#!/usr/bin/env python
"""Writes <base>/cases_int8.json, cases_int4.json and cases_fp8.json: answers with W' in the place of the weights that the
daemon quantises.

W' is said here by itself, from its definition in model/quantization.h: groups of 64 inputs of one output row, fp8 a row;
  int8  W' = s q         s = max|W| / 127 in fp32, q = round(W / s)
  int4  W' = s q + z     s = bf16((max W - min W) / 15), z = bf16(min W + 8 s), q = round((W - z) / s) in -8 .. 7
  fp8   W' = s q         s = max|W| / 448 in fp32, q = torch.float8_e4m3fn of W / s, at most 448
peft then sees a model with W', as it does on a quantised base: DoRA's norms are those of W'.

  quantized.py [--form=int8|int4|fp8] [BASE ...]
"""

import argparse
import pathlib

import torch

import oracle
from files import write_cases
from search import find_case, require_shift, shift

HERE = pathlib.Path(__file__).parent
GROUP = 64
FORMS = ("int8", "int4", "fp8")
ADAPTERS = {
    "llama3": ["all_linear", "dora"],
    "phi3": ["dora_fused"],
    "qwen2_moe": ["all_and_experts"],
}
BASE_LENGTHS = [(2, 12), (40, 20), (100, 12)]  # Prompt tokens, tokens asked for.
ADAPTER_LENGTH = (17, 12)
MIN_MOVED = 5e-3  # Ten times what the tests allow, so that it shows whether a base is quantised.
# Attention's and the FFN's matrices, a routed one's experts too; routers, gates, embeddings, head and norms stay.
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj")


def in_fp8(weight: torch.Tensor) -> torch.Tensor:
    scale = weight.abs().amax(-1, keepdim=True) / 448
    return scale * (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()


def quantized(weight: torch.Tensor, form: str) -> torch.Tensor:
    """weight [..., in] -> W', fp32."""
    if form == "fp8":
        return in_fp8(weight)
    size = weight.shape[-1]
    whole = -(-size // GROUP) * GROUP
    # The last group may be shorter: a repeated element changes no minimum and no maximum.
    padded = torch.cat([weight, weight[..., -1:].expand(*weight.shape[:-1], whole - size)], -1)
    groups = padded.unflatten(-1, (-1, GROUP))
    if form == "int8":
        scale = groups.abs().amax(-1, keepdim=True) / 127
        made = scale * torch.round(groups / scale).clamp(-127, 127)
    else:
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale = ((high - low) / 15).bfloat16().float()
        zero = (low + 8 * scale).bfloat16().float()
        made = scale * torch.round((groups - zero) / scale).clamp(-8, 7) + zero
    return made.flatten(-2)[..., :size].contiguous()


def is_quantized(name: str) -> bool:
    path = name.removesuffix(".weight").split(".")
    return "layers" in path and path[-1] in MATRICES


@torch.no_grad()
def put_quantized(model, form: str):
    for name, parameter in model.named_parameters():
        if is_quantized(name):
            parameter.copy_(quantized(parameter, form))
    return model


def load(folder: pathlib.Path, form: str, adapter: str = ""):
    model = put_quantized(oracle.load(folder / "model"), form)
    if not adapter:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder / "adapters" / adapter).eval()


def cases_of(name: str, form: str) -> list:
    folder = HERE / name
    cases = [find_case(load(folder, form), f"base-{n}", "", n, m, seed=20_000 + n)[0] for n, m in BASE_LENGTHS]
    whole = oracle.load(folder / "model")
    moved = max(shift(case, oracle.answer(whole, case["prompt"], case["max_tokens"], case["tokens"])) for case in cases)
    print(f"  {name}: {form}: shift {moved:.3f}")
    if moved < MIN_MOVED:
        raise SystemExit(f"{name}: {form} does not change the answers")
    for adapter in ADAPTERS[name]:
        length, max_tokens = ADAPTER_LENGTH
        case, _ = find_case(load(folder, form, adapter), f"{adapter}-{length}", adapter, length, max_tokens, seed=21_000)
        require_shift(f"{name}/{adapter}: {form}", load(folder, form), [case])
        cases.append(case)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--form", choices=FORMS, action="append")
    parser.add_argument("bases", nargs="*", metavar="BASE")
    args = parser.parse_args()
    oracle.one_quiet_thread()
    for name in args.bases or ADAPTERS:
        for form in args.form or FORMS:
            write_cases(HERE / name / f"cases_{form}.json", cases_of(name, form))


if __name__ == "__main__":
    main()
