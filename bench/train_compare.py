#!/usr/bin/env python3
"""Training tokens a second of several LoRA jobs: lorad in one batch beside peft + transformers one after another.

  $(scripts/golden-env | tail -1) bench/train_compare.py [--model DIR] [--tokens 32] [--sequences 1] [--jobs 1,4,8]

Both in fp32 on the same machine, in turns within one run: `train_bench`, then peft, --rounds times; ratios are of
medians. peft has its best case: equal lengths, so no padding, and no gradient checkpointing.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import shared_flags


def peft_tokens_per_second(base_dir, args, jobs):
    """The same jobs, each on the same base, one after the other; making the adapters is not counted."""
    spent = 0.0
    for job in range(jobs):
        base = peft_tokens_per_second.base
        if base is None:
            base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
            base.eval()
        torch.manual_seed(job)
        config = LoraConfig(task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear")
        model = get_peft_model(base, config)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        draw = torch.Generator().manual_seed(job)
        began = time.perf_counter()
        for _ in range(args.steps):
            ids = torch.randint(0, base.config.vocab_size, (args.sequences, args.tokens), generator=draw)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        spent += time.perf_counter() - began
        peft_tokens_per_second.base = model.unload()
    return jobs * args.steps * args.sequences * args.tokens / spent


peft_tokens_per_second.base = None


def ours(args):
    command = [shared_flags.ROOT / "build/release/bin/train_bench", args.model, f"--steps={args.steps}", f"--tokens={args.tokens}",
               f"--sequences={args.sequences}", f"--rank={args.rank}", f"--jobs={args.jobs}"]
    environment = os.environ | {"GOMP_SPINCOUNT": "3000"}  # as the daemon sets it for itself
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    return {found["jobs"]: found for found in map(json.loads, lines)}


def main():
    parser = shared_flags.parser(__doc__, "--model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--jobs", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    counts = [int(count) for count in args.jobs.split(",")]
    rounds = []
    peft_tokens_per_second(args.model, argparse.Namespace(**{**vars(args), "steps": 1}), 1)  # warm
    for _ in range(args.rounds):
        mine = ours(args)
        peer = {count: peft_tokens_per_second(args.model, args, count) for count in counts}
        rounds.append((mine, peer))
    print("| jobs | lorad, one batch | lorad, one after another | peft, one after another | one batch / peft |")
    print("| --- | --- | --- | --- | --- |")
    for count in counts:
        median = lambda pick: statistics.median(pick(mine[count], peer[count]) for mine, peer in rounds)
        together, alone = median(lambda m, p: m["together"]), median(lambda m, p: m["one_after_another"])
        peft = median(lambda m, p: p)
        print(f"| {count} | {together:.0f} | {alone:.0f} | {peft:.0f} | {together / peft:.2f} |")


if __name__ == "__main__":
    main()
