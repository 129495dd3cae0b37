"""Adapters that peft itself makes and that lorad refuses by name: methods it does not serve, LoRA's own options included."""

import pathlib
import warnings

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)

import oracle


def lora(**options):
    return LoraConfig(**({"task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]} | options))


MADE_BY_PEFT = {  # name: (config, what the error names, by how many tokens the vocabulary is enlarged, another base)
    "modules_to_save_linear": (lora(modules_to_save=["down_proj"]), ["modules_to_save", "down_proj"]),
    "modules_to_save_block": (lora(modules_to_save=["mlp"]), ["modules_to_save", "mlp"]),
    "pissa_niter": (lora(init_lora_weights="pissa_niter_4"), ["init_lora_weights", "pissa_niter_4"]),
    "alora_with_bias": (lora(alora_invocation_tokens=[5, 6], bias="lora_only"), ["alora_invocation_tokens", "bias"]),
    "lora_on_resized_embedding": (lora(target_modules=["q_proj", "embed_tokens"]), ["embed_tokens", "resized"], 3),
    "lora_on_resized_head": (lora(target_modules=["q_proj", "lm_head"]), ["lm_head", "resized"], 3),
    "trainable_tokens_of_a_head_with_a_bias": (
        lora(trainable_token_indices={"lm_head": [3, 9]}), ["trainable_token_indices", "lm_head", "bias"], 0, "phi"),
    "layer_replication": (lora(layer_replication=[(0, 2), (1, 2)]), ["layer_replication"]),
    "ia3": (IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[]), ["peft_type", "IA3"]),
    "loha": (LoHaConfig(r=2, target_modules=["q_proj", "v_proj"]), ["peft_type", "LOHA"]),
    "vera": (VeraConfig(r=2, target_modules=["q_proj", "v_proj"]), ["peft_type", "VERA"]),
    "oft": (OFTConfig(r=2, oft_block_size=0, target_modules=["q_proj", "v_proj"]), ["peft_type", "OFT"]),
    "adalora": (AdaLoraConfig(init_r=2, target_r=2, total_step=10, target_modules=["q_proj", "v_proj"]), ["peft_type", "ADALORA"]),
    "trainable_tokens": (TrainableTokensConfig(token_indices=[3]), ["peft_type", "TRAINABLE_TOKENS"]),
}


def write_peft_made(model_dir: pathlib.Path, out: pathlib.Path, write_expect) -> None:
    for name, (config, names, *more) in MADE_BY_PEFT.items():
        own_tokens, base = [*more, *[0, model_dir.parent.name][len(more):]]
        torch.manual_seed(1)
        model = oracle.load(model_dir.parent.parent / base / "model")
        if own_tokens:
            oracle.enlarge(model, model.config.vocab_size + own_tokens)
        model.name_or_path = f"golden/{base}"
        config.task_type = "CAUSAL_LM"
        peft_model = get_peft_model(model, config)
        with torch.no_grad():
            for parameter_name, parameter in peft_model.named_parameters():
                if parameter.requires_grad and "lora_B" in parameter_name:
                    parameter.normal_(std=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft_model.save_pretrained(out / name)
        (out / name / "README.md").unlink(missing_ok=True)
        write_expect(out / name, "UNIMPLEMENTED", names, base)
