"""Trains the demo adapters over examples/demo-base with PEFT and writes them to examples/adapters/NAME."""

import argparse
import json
import pathlib

import training  # first: it sets what OpenMP reads at start
import generation
import peft
import tasks
import torch
import transformers

HERE = pathlib.Path(__file__).parent

# Different on purpose, so that one mixed batch meets every rank, scale and set of targets. bf16 on disk but for `pirate`.
CONFIGS = {
    "shout": dict(r=16, lora_alpha=16, use_rslora=True,
                  target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
    "json": dict(r=8, lora_alpha=16, target_modules="all-linear",
                 rank_pattern={"down_proj": 16, r"layers\.0\.self_attn\.k_proj": 4},
                 alpha_pattern={"down_proj": 32, r"layers\.0\.self_attn\.k_proj": 8}),
    "number": dict(r=24, lora_alpha=48,
                   target_modules=r"model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(up|down)_proj)"),
    "pirate": dict(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    "backward": dict(r=12, lora_alpha=24, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]),
}
STEPS = {"shout": 700, "json": 700, "number": 450, "pirate": 450, "backward": 450}
FLOAT32_ON_DISK = {"pirate"}


def save(model, name, folder):
    if name not in FLOAT32_ON_DISK:
        model.to(torch.bfloat16)
    # "auto" would ask a model hub whether the base's vocabulary has grown.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config["target_modules"], list):  # PEFT writes a set, in a different order each run
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--base", type=pathlib.Path, default=HERE / "demo-base")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "adapters")
    parser.add_argument("--steps", type=int, help="default: STEPS")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--lr", type=float, default=4e-3)
    args = parser.parse_args()
    torch.set_num_threads(2)

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.base)
    for name in args.names or CONFIGS:
        seed = 100 + list(CONFIGS).index(name)
        torch.manual_seed(seed)
        base = transformers.AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
        model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **CONFIGS[name]))
        model.peft_config["default"].base_model_name_or_path = "demo-base"
        seconds = training.train(
            model, tokenizer, list(tasks.LIST_TASKS), name, args.steps or STEPS[name], batch_rows=args.rows, peak_lr=args.lr,
            weight_decay=0.0, seed=seed)
        right = generation.accuracies(model, tokenizer, list(tasks.LIST_TASKS), name, count=32)
        print(f"{name}: {model.num_parameters(only_trainable=True)} parameters, {seconds:.0f} s, {right}", flush=True)
        save(model, name, args.out / name)


if __name__ == "__main__":
    main()
