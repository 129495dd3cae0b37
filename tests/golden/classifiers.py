"""Adapters with a classifier head: sequence classification as peft trains it, and the same as MoE-PEFT writes it."""

import copy
import dataclasses
import pathlib

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import oracle
import variants
from files import read_json, write_json

PROMPTS = [(1, 11), (9, 12), (40, 13)]  # Tokens, seed.


@dataclasses.dataclass
class Classifier:
    name: str
    lora: dict
    labels: int = 3
    moe_peft: bool = False  # adapter_model.bin with a tensor "classifier", and MoE-PEFT's config.
    stored: torch.dtype = torch.float32


QV = Classifier("q_v", variants.lora(["q_proj", "v_proj"]))
WIDE = Classifier("all_linear_5", variants.lora("all-linear", r=3), labels=5)
DORA = Classifier("dora", variants.lora(["q_proj", "v_proj"], use_dora=True), labels=2)
MOE_PEFT = Classifier("moe_peft", variants.lora(["q_proj", "v_proj"]), labels=4, moe_peft=True)
BF16 = Classifier("stored_bf16", variants.lora(["v_proj"]), stored=torch.bfloat16)

BY_BASE = {
    "llama3": [QV, WIDE, DORA, MOE_PEFT, BF16],
    "qwen3": [QV, MOE_PEFT],
    "opt": [QV],
    "opt_post": [QV],  # Its embeddings are narrower than its layers.
    "phi": [QV],  # Its head has a bias, its classifier none.
}


def load_base(model_dir: pathlib.Path, labels: int):
    model = AutoModelForSequenceClassification.from_pretrained(
        model_dir, num_labels=labels, dtype=torch.float32, attn_implementation="eager")
    generator = torch.Generator().manual_seed(labels)
    model.score.weight.data.copy_(torch.randn(model.score.weight.shape, generator=generator) / model.score.in_features**0.5)
    return model.eval()


@torch.no_grad()
def logits_of(model, prompt: list) -> list:
    return [oracle.rounded(value) for value in model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]]


def write(base: str, classifier: Classifier, model_dir: pathlib.Path, folder: pathlib.Path) -> None:
    model = load_base(model_dir, classifier.labels)
    model.name_or_path = f"golden/{base}"
    peft_model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **copy.deepcopy(classifier.lora)))
    variants.draw_pairs(peft_model, 0.8, seed=5)
    variants.draw_vectors(peft_model, 0.8, seed=5)
    if classifier.stored != torch.float32:
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(classifier.stored)
    peft_model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def cases_of(base: str, classifier: Classifier, model_dir: pathlib.Path, folder: pathlib.Path) -> list:
    """From the folder as it lies on disk; prompts without the padding token, which these heads look for."""
    model = PeftModel.from_pretrained(load_base(model_dir, classifier.labels), folder).eval()
    model.config.pad_token_id = None
    cases = []
    for length, seed in PROMPTS:
        prompt = torch.randint(3, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
        cases.append({"name": f"{classifier.name}-{length}", "adapter": classifier.name, "prompt": prompt,
                      "logits": logits_of(model, prompt)})
    return cases


def as_moe_peft(folder: pathlib.Path) -> None:
    """The same tensors in MoE-PEFT's file and words."""
    path = folder / "adapter_model.safetensors"
    tensors = {("classifier" if "score" in name else name): tensor for name, tensor in load_file(path).items()}
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}, folder / "adapter_model.bin")
    path.unlink()
    config = read_json(folder / "adapter_config.json")
    kept = ("base_model_name_or_path", "bias", "lora_alpha", "r", "target_modules")
    write_json(folder / "adapter_config.json", {key: config[key] for key in kept} | {
        "lora_dropout": 0.05, "peft_type": "LORA", "task_type": "SEQ_CLS"})


def write_base(base: str, folder: pathlib.Path) -> list:
    cases = []
    for classifier in BY_BASE.get(base, []):
        adapter = folder / "classifiers" / classifier.name
        write(base, classifier, folder / "model", adapter)
        cases += cases_of(base, classifier, folder / "model", adapter)
        if classifier.moe_peft:
            as_moe_peft(adapter)
    return cases
