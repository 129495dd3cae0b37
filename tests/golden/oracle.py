"""Reference answers by transformers and peft: fp32 on CPU, eager attention and experts, one full forward per token.

No key-value cache and no generate(): the loop below is the definition of greedy decoding that the
daemon is compared with. End-of-sequence tokens do not stop it.
"""

import dataclasses
import json
import pathlib
import warnings

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM

TOP = 5
DECIMALS = 6  # Two orders below the 5e-4 that the tests allow.


@dataclasses.dataclass
class Answer:
    tokens: list
    logprobs: list
    top: list
    prompt_logprobs: list
    min_margin: float


def one_quiet_thread() -> None:
    """For scripts: the same sums on every machine, and no progress bars between a script's own lines."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def load(model_dir: pathlib.Path, adapter_dir: pathlib.Path | None = None, dtype=torch.float32, config=None, vocabulary=None):
    """The model as it stands on disk, so that what is answered is what was committed; enlarged to the adapter's vocabulary."""
    kwargs = {} if config is None else {"config": config}
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, attn_implementation="eager",
                                                 experts_implementation="eager", **kwargs)
    vocabulary = vocabulary or (adapter_dir and own_vocabulary(adapter_dir))
    if vocabulary and vocabulary > model.config.vocab_size:
        enlarge(model, vocabulary)
    if adapter_dir is not None:
        from peft import PeftModel  # Not where MoE-PEFT is the oracle.

        model = PeftModel.from_pretrained(model, adapter_dir)
    return model.eval()


def own_vocabulary(adapter_dir: pathlib.Path) -> int:
    """How many tokens the adapter's tables have; 0: it has none of them."""
    tokens = json.loads((adapter_dir / "adapter_config.json").read_text()).get("trainable_token_indices") or []
    lists = tokens.values() if isinstance(tokens, dict) else [tokens]
    sizes = [max(each) + 1 for each in lists if each]
    if (adapter_dir / "adapter_model.safetensors").exists():
        with safe_open(adapter_dir / "adapter_model.safetensors", "pt") as tensors:
            sizes += [tensors.get_slice(name).get_shape()[0] for name in tensors.keys() if is_table(name)]
    elif (adapter_dir / "adapter_model.bin").exists():
        tensors = torch.load(adapter_dir / "adapter_model.bin", weights_only=True)
        sizes += [tensor.shape[0] for name, tensor in tensors.items() if is_table(name)]
    return max(sizes, default=0)


def is_table(name: str) -> bool:
    names = [table + end for table in ("embed_tokens", "lm_head") for end in (".weight", ".base_layer.weight", ".token_adapter.base_layer.weight")]
    return name.endswith(tuple(names))


@torch.no_grad()
def enlarge(model, vocabulary: int) -> None:
    """As resize_token_embeddings does; the new rows are copies of others, so that they are as large."""
    before = model.config.vocab_size
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        table.weight[before:] = table.weight[3 : 3 + vocabulary - before]


def invocation(model, prompt: list) -> int | None:
    """Where an aLoRA adapter of the model becomes active; None: nowhere. In generate() the prompt alone decides."""
    tokens = model.peft_config["default"].alora_invocation_tokens
    starts = [i for i in range(len(prompt) - len(tokens) + 1) if prompt[i : i + len(tokens)] == tokens]
    return starts[-1] if starts else None


def is_alora(model) -> bool:
    return bool(hasattr(model, "peft_config") and getattr(model.peft_config.get("default"), "alora_invocation_tokens", None))


@torch.no_grad()
def log_softmax_rows(model, ids: list, prompt: list | None = None) -> torch.Tensor:
    """[len(ids), vocab] float32 logits of one sequence; `prompt`: the part of it that is, all of it without."""
    padded = ids + [0] * (rope_length(model, len(ids)) - len(ids))  # Attention is causal: what comes behind is not seen.
    kwargs = {}
    if is_alora(model):
        start = invocation(model, ids if prompt is None else prompt)
        kwargs["alora_offsets"] = [None if start is None else len(padded) - start]
    logits = model(input_ids=torch.tensor([padded]), use_cache=False, **kwargs).logits[0, : len(ids)].float()
    if not torch.isfinite(logits).all():
        raise ValueError("logits are not finite")
    return logits


def rope_length(model, length: int) -> int:
    """The length whose angles a sequence of `length` tokens gets: itself, but for "dynamic" ropes.

    Those have other angles for each length, so that no key would live longer than a token; a server takes those of the
    next multiple of max_position_embeddings.
    """
    config = model.config
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") != "dynamic":
        return length
    for module in model.modules():
        if hasattr(module, "max_seq_len_cached"):
            module.max_seq_len_cached = 0  # transformers keeps the longest ever seen otherwise.
    step = config.max_position_embeddings
    return -(-length // step) * step


def answer(model, prompt: list, max_tokens: int, forced: list | None = None) -> Answer:
    """Greedy continuation of `prompt`; with `forced`, the log-probabilities of those tokens instead."""
    ids = list(prompt)
    logits = log_softmax_rows(model, ids, prompt)
    prompt_logprobs = torch.log_softmax(logits[:-1], dim=-1)
    out = Answer([], [], [], [rounded(prompt_logprobs[i, t]) for i, t in enumerate(prompt[1:])], float("inf"))
    for step in range(max_tokens):
        last = log_softmax_rows(model, ids, prompt)[-1]
        best = last.topk(2).values
        logprobs = torch.log_softmax(last, dim=-1)
        token = int(last.argmax()) if forced is None else forced[step]
        top = logprobs.topk(TOP)
        out.tokens.append(token)
        out.logprobs.append(rounded(logprobs[token]))
        out.top.append([[int(i), rounded(v)] for v, i in zip(top.values, top.indices)])
        out.min_margin = min(out.min_margin, float(best[0] - best[1]))
        ids.append(token)
    out.min_margin = rounded(out.min_margin)
    return out


def rounded(value) -> float:
    return round(float(value), DECIMALS)
