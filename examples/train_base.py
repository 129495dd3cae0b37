"""Trains the demo base and writes it to examples/demo-base (bf16). See README.md for the measured time and accuracy."""

import argparse
import pathlib

import training  # first: it sets what OpenMP reads at start
import generation
import tasks
import tokenizer as tokenizer_maker
import torch
import transformers

HERE = pathlib.Path(__file__).parent


def new_model(tokenizer):
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512,
        tie_word_embeddings=True, initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    return transformers.LlamaForCausalLM(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "demo-base")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(1)

    tokenizer = tokenizer_maker.build()
    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")

    def report(m):
        m.eval()
        print(generation.accuracies(m, tokenizer, tasks.TASKS, None, count=32), flush=True)
        m.train()

    seconds = training.train(
        model, tokenizer, tasks.TASKS, None, args.steps, batch_rows=64, peak_lr=args.lr, weight_decay=0.05, seed=1,
        report=report)
    print(f"trained in {seconds:.0f} s")
    model.to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
