"""Prompts whose answers are worth comparing: clear margins, no mere loop, and changed by what is tested."""

import torch

import oracle

MIN_MARGIN = 5e-3  # Of every greedy choice: fifty times what two correct programs differ by.
MIN_SHIFT = 0.05  # Of some log-probability, by an adapter or by a constant of the configuration.
MIN_DISTINCT = 4  # Different tokens in an answer, so that a loop does not hide wrong positions.
TRIES = 400


def draw_prompt(vocab: int, length: int, seed: int) -> list:
    return torch.randint(3, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def find_case(model, name: str, adapter: str, length: int, max_tokens: int, seed: int,
              edit=None, must_say=0) -> tuple[dict, object]:
    """The first prompt of a seeded sequence, `edit`ed, whose greedy answer has clear margins, is no mere loop and says a
    token from `must_say` on."""
    for attempt in range(TRIES):
        prompt = draw_prompt(model.config.vocab_size, length, seed * TRIES + attempt)
        prompt = edit(prompt) if edit else prompt
        answer = oracle.answer(model, prompt, max_tokens)
        if answer.min_margin > MIN_MARGIN and len(set(answer.tokens)) >= MIN_DISTINCT and max(answer.tokens) >= must_say:
            return case_of(name, adapter, prompt, max_tokens, answer), answer
    raise SystemExit(f"{name}: no prompt with clear margins in {TRIES} tries; draw other weights")


def case_of(name: str, adapter: str, prompt: list, max_tokens: int, answer) -> dict:
    return {
        "name": name, "adapter": adapter, "prompt": prompt, "max_tokens": max_tokens, "tokens": answer.tokens,
        "logprobs": answer.logprobs, "top": answer.top, "prompt_logprobs": answer.prompt_logprobs,
        "min_margin": answer.min_margin,
    }


def shift(case: dict, other) -> float:
    """Largest difference of the log-probabilities of the same tokens."""
    ours, theirs = case["prompt_logprobs"] + case["logprobs"], other.prompt_logprobs + other.logprobs
    return max(abs(a - b) for a, b in zip(ours, theirs))


def require_shift(what: str, model, cases: list) -> None:
    shifts = [shift(c, oracle.answer(model, c["prompt"], c["max_tokens"], c["tokens"])) for c in cases]
    print(f"  {what}: shift {max(shifts):.3f}")
    if max(shifts) < MIN_SHIFT:
        raise SystemExit(f"{what} does not change the answers")
