"""Measures exact-match accuracy on held-out prompts, greedy, in fp32 and bf16, and prints README.md's tables."""

import argparse

import training  # noqa: F401  first: it sets what OpenMP reads at start
import generation
import tasks
import torch


def table(count):
    """{(dtype, adapter, task): accuracy}"""
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        tokenizer, model = generation.load(dtype)
        for adapter in [None, *tasks.ADAPTERS]:
            with generation.chosen(model, adapter):
                task_list = tasks.TASKS if adapter is None else list(tasks.LIST_TASKS)
                for task, right in generation.accuracies(model, tokenizer, task_list, adapter, count).items():
                    result[dtype, adapter, task] = right
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="held-out prompts for each adapter and task")
    args = parser.parse_args()
    torch.set_num_threads(2)
    result = table(args.count)
    print("| task | " + " | ".join(a or "base" for a in [None, *tasks.ADAPTERS]) + " |")
    print("| --- |" + " --- |" * (len(tasks.ADAPTERS) + 1))
    for task in tasks.TASKS:
        cells = []
        for adapter in [None, *tasks.ADAPTERS]:
            pair = [result.get((d, adapter, task)) for d in (torch.float32, torch.bfloat16)]
            cells.append("" if pair[0] is None else " / ".join(f"{100 * p:.1f}" for p in pair))
        print(f"| {task} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
