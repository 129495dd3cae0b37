"""Several adapters of a base at once, each with a scale of the request's on top of its own, as peft applies them."""

import dataclasses
import pathlib

from peft import PeftModel
from peft.tuners.lora import LoraLayer

import oracle


@dataclasses.dataclass
class Composition:
    name: str
    members: list  # (a variant of the base, scale), in the order in which they are applied.

    def adapters(self) -> list:
        return [{"name": name, "scale": scale} for name, scale in self.members]

    def without(self, index: int) -> "Composition":
        return Composition(self.name, self.members[:index] + self.members[index + 1 :])


PAIR = Composition("pair", [("q_v", 1.0), ("all_linear", 1.0)])
SCALED = Composition("scaled", [("all_linear", 0.5), ("q_v", -1.25)])
ONE_SCALED = Composition("one_scaled", [("q_v", 1.75)])

BY_BASE = {
    "llama3": [
        PAIR, SCALED, ONE_SCALED,
        Composition("four", [("rslora", 0.5), ("lm_head", 1.0), ("embed_tokens", 0.75), ("rank_80", 0.25)]),
        # A factor is on what is there before its term: the order counts.
        Composition("lora_then_dora", [("all_linear", 0.5), ("dora", 0.75)]),
        Composition("dora_then_lora", [("dora", 0.75), ("all_linear", 0.5)]),
        Composition("doras", [("dora", 1.0), ("dora_rslora_patterns", 0.5)]),
        Composition("dora_embedding", [("embed_tokens", 0.5), ("dora_embed_tokens", 1.5), ("dora_lm_head", 0.5)]),
        Composition("dora_and_lora_bias", [("lora_bias", 0.5), ("dora", 1.0)]),
    ],
    # Replaced biases stay outside of every factor. (peft allows an adapter with biases in the first place only.)
    "llama_linear": [
        Composition("biases_then_dora", [("bias_all", 0.5), ("dora", 0.75)]),
        Composition("dora_biases_then_lora", [("dora_bias_all", 0.75), ("all_linear", 0.5), ("lora_bias", 1.0)]),
        SCALED,
    ],
    "qwen3": [PAIR, Composition("both_tables", [("embed_pair_only", 0.75), ("head_pair_only", 1.25), ("dora", 0.5)])],
    "gemma": [PAIR, Composition("embeddings", [("embed_tokens", 0.5), ("dora_embed_tokens", 1.0)])],
    "phi3": [Composition("fused", [("dora_fused", 0.75), ("fused_patterns", 1.5)])],
    "opt": [Composition("fc", [("fc_patterns", 0.5), ("all_linear", 1.0)])],
}


def load(folder: pathlib.Path, composition: Composition):
    """The base in `folder` with the composition active. The order is that of the members."""
    model = oracle.load(folder / "model")
    names = [name for name, _ in composition.members]
    peft_model = PeftModel.from_pretrained(model, folder / "adapters" / names[0], adapter_name=names[0])
    for name in names[1:]:
        peft_model.load_adapter(folder / "adapters" / name, adapter_name=name)
    peft_model.base_model.set_adapter(names)
    for module in peft_model.modules():
        for name, scale in composition.members:
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= scale
    return peft_model.eval()
