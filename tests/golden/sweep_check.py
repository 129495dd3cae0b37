"""What peft says to the requests of the sweep, and how far the daemon's answers are from it."""

import dataclasses
import pathlib

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

import oracle

TOLERANCE = 5e-4  # Of a log-probability, as the golden tests'; a very unlikely token's is larger by its size.


@dataclasses.dataclass
class Verdict:
    worst: float = 0.0
    where: str = ""  # The first position that is wrong; "": none is.


def load_adapters(model_dir: pathlib.Path, adapters: list):
    """The base with the adapters [(folder, scale)] active, in that order; peft's errors are its caller's."""
    if not adapters:
        return oracle.load(model_dir)
    if len(adapters) == 1 and adapters[0][1] == 1:
        return oracle.load(model_dir, adapters[0][0]).float()
    model = oracle.load(model_dir, vocabulary=max(oracle.own_vocabulary(folder) for folder, _ in adapters) or None)
    names = ["default", *(f"adapter{i}" for i in range(1, len(adapters)))]
    peft_model = PeftModel.from_pretrained(model, adapters[0][0], adapter_name=names[0])
    for name, (folder, _) in list(zip(names, adapters))[1:]:
        peft_model.load_adapter(folder, adapter_name=name)
    peft_model.base_model.set_adapter(names)
    for module in peft_model.modules():
        for name, (_, scale) in zip(names, adapters):
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= scale
    return peft_model.float().eval()


def depends_on_length(model) -> bool:
    return (getattr(model.config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope")


def rows_of(model, prompt: list, tokens: list) -> tuple:
    """Log-probabilities [prompt - 1 | answer] of what follows, each row over the vocabulary."""
    if depends_on_length(model):
        rows = [torch.log_softmax(oracle.log_softmax_rows(model, prompt + tokens[:n], prompt), -1) for n in range(len(tokens))]
        return rows[0][:-1], torch.stack([each[-1] for each in rows])
    rows = torch.log_softmax(oracle.log_softmax_rows(model, prompt + tokens[:-1], prompt), -1)
    return rows[: len(prompt) - 1], rows[len(prompt) - 1 :]


def compare(model, request: dict, answer: dict) -> Verdict:
    """Teacher-forced on what the daemon answered."""
    prompt, tokens = request["prompt"], answer["tokens"]
    verdict = Verdict()
    if len(tokens) != request["max_tokens"]:
        return Verdict(float("inf"), f"{len(tokens)} tokens")
    of_prompt, of_answer = rows_of(model, prompt, tokens)

    def check(where: str, ours: float, theirs: float) -> None:
        difference = abs(ours - theirs)
        verdict.worst = max(verdict.worst, difference if difference == difference else float("inf"))
        if not difference <= TOLERANCE * max(1.0, abs(theirs) / 10) and not verdict.where:
            verdict.where = f"{where}: lorad: {ours:.5f}; peft: {theirs:.5f}"

    if request["prompt_logprobs"]:
        for i, logprob in enumerate(answer["prompt_logprobs"]):
            check(f"prompt token {i + 1} of {len(prompt)}", logprob, float(of_prompt[i, prompt[i + 1]]))
    for i, (token, logprob) in enumerate(zip(tokens, answer["logprobs"])):
        check(f"answer token {i}, prompt of {len(prompt)}", logprob, float(of_answer[i, token]))
        margin = float(of_answer[i].max() - of_answer[i, token])
        if margin > 2 * TOLERANCE and not verdict.where:
            verdict.where = f"answer token {i}: lorad chose {token}; peft has one better by {margin:.5f}"
    return verdict
