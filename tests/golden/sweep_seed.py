"""One seed of the sweep: a base, its adapters, what the daemon is asked, and what is wrong with its answers."""

import collections
import contextlib
import dataclasses
import pathlib
import random
import re
import shutil

import torch

import oracle
import sweep_adapters
import sweep_bases
import sweep_check
import sweep_damage
from files import read_json

ADAPTERS, DAMAGED = 8, 5
PROBE = list(range(3, 60, 4))  # Tokens of every base.
FLAGS = (["--memory-bytes=64MiB"], ["--memory-bytes=2MiB"], ["--memory-bytes=64MiB", "--max-batch-tokens=7"],
         ["--memory-bytes=64MiB", "--max-sequences=3"], ["--memory-bytes=64MiB", "--async-scheduling=off"])


@dataclasses.dataclass
class Folder:
    """An adapter on disk."""

    name: str
    path: pathlib.Path
    what: str  # How it was made.
    of: str = ""  # The adapter that was damaged to make it.
    must_name: str = ""  # In the error, if it is refused and that was not.
    must_be_refused: bool = False
    trained: torch.Tensor | None = None  # Log-probabilities of PROBE by the model that was saved.


@dataclasses.dataclass
class Tally:
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    refusals: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict = dataclasses.field(default_factory=dict)  # Of a refusal, a folder; kept with --keep.
    skipped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    worst: float = 0.0


def plain(message: str) -> str:
    """An error without what differs from folder to folder."""
    for pattern, name in ((r"/\S*/", ""), (r"tensor \S+:", "tensor T:"), (r"\bmodel\.[\w.]+", "M"), (r"\[[^]]*\]", "[..]"), (r"\d+", "N")):
        message = re.sub(pattern, name, message)
    return message.splitlines()[0][:160] if message else ""


def changes_base(folder: pathlib.Path) -> bool:
    """PEFT scales the trained pair alone, and takes what it began with from a base that other adapters have changed."""
    with contextlib.suppress(ValueError, OSError):
        return str(read_json(folder / "adapter_config.json").get("init_lora_weights")) in ("pissa", "olora")
    return False


def has_biases(folder: pathlib.Path) -> bool:
    return read_json(folder / "adapter_config.json")["bias"] != "none"


class Sweep:
    """One seed: a base, its adapters, the daemon's answers and peft's."""

    def __init__(self, seed: int, base: str | None, folder: pathlib.Path, tally: Tally):
        self.rng, self.folder, self.tally = random.Random(seed), folder, tally
        self.base = sweep_bases.draw(self.rng, base)
        self.model_dir = folder / "model"
        self.findings = []
        self.adapters = {}

    def find(self, what: str, *about) -> None:
        self.findings.append("\n    ".join([what, *map(str, about)]))

    def write(self) -> None:
        sweep_bases.write(self.base, self.model_dir)
        self.vocabulary = self.base.config.vocab_size
        model = oracle.load(self.model_dir)
        for i in range(ADAPTERS):
            drawn, folder = sweep_adapters.draw(self.rng, model), self.folder / f"a{i}"
            try:
                trained = oracle.log_softmax_rows(sweep_adapters.write(drawn, self.model_dir, folder), PROBE)
            except Exception as error:  # peft has a dozen kinds of them for what it does not do.
                shutil.rmtree(folder, ignore_errors=True)
                self.tally.skipped["peft does not make: " + plain(str(error))] += 1
                continue
            self.adapters[folder.name] = Folder(folder.name, folder, str(drawn), trained=trained)
        if not self.adapters:
            return
        for i in range(DAMAGED):
            folder = self.folder / f"d{i}"
            of = self.rng.choice([each for each in self.adapters.values() if each.trained is not None])
            what, must_name, must_be_refused = sweep_damage.damage(self.rng, of.path, folder)
            self.adapters[folder.name] = Folder(folder.name, folder, what, of.name, must_name, must_be_refused)

    def request(self, prompt: list, *adapters) -> dict:
        return {"adapters": [{"name": name, "scale": scale} for name, scale in adapters], "prompt": prompt,
                "max_tokens": self.rng.randint(1, 9), "prompt_logprobs": self.rng.random() < 0.6}

    def plan(self) -> dict:
        lengths = (1, 3, 20, 37, 60)
        prompts = [[self.rng.randrange(3, self.vocabulary) for _ in range(n)] for n in lengths]
        for folder in self.adapters.values():  # so that an aLoRA becomes active now and then
            tokens = (folder.trained is not None and read_json(folder.path / "adapter_config.json").get("alora_invocation_tokens")) or []
            prompts += [prompts[2][:7] + tokens + prompts[2][7:]] * bool(tokens)
        names = list(self.adapters)
        sound = [each.name for each in self.adapters.values() if each.trained is not None]
        first = [self.request(self.rng.choice(prompts), (name, 1)) for name in names for _ in range(2)]
        first += [self.request(prompt) for prompt in prompts[1:4]]
        for _ in range(4):
            some = self.rng.sample(sound, min(len(sound), self.rng.choice([1, 2, 2, 3])))
            some.sort(key=lambda name: not has_biases(self.adapters[name].path))  # PEFT reads those of the first alone.
            first.append(self.request(self.rng.choice(prompts), *((name, self.rng.choice([1, 0.5, -1.25, 2, 0])) for name in some)))
        # Every name means another folder then, and is asked for the same prompts.
        turned = dict(zip(names, names[1:] + names[:1]))
        second = [each | {"prompt_logprobs": self.rng.random() < 0.3} for each in first if len(each["adapters"]) < 2]
        self.rng.shuffle(first)
        loads = [[{"name": name, "path": str(self.adapters[of].path)} for name, of in names_of.items()]
                 for names_of in ({name: name for name in names}, turned)]
        self.meaning = [{name: name for name in names}, turned]
        flags = ["--dtype=float32", "--threads=1", *self.rng.choice(FLAGS)]
        return {"model": str(self.model_dir), "flags": flags, "phases": [
            {"load": loads[0], "requests": first}, {"load": loads[1], "requests": second}]}

    def check(self, plan: dict, answers: dict) -> None:
        if answers["failure"]:
            self.find("the daemon failed", answers["failure"])
            return
        by_adapters = collections.defaultdict(list)
        self.refused = {name for name, error in answers["phases"][0]["loads"].items() if error}
        for phase, said, meaning in zip(plan["phases"], answers["phases"], self.meaning):
            for name, error in said["loads"].items() if phase is plan["phases"][0] else ():
                self.check_load(self.adapters[meaning[name]], error)
            for request, answer in zip(phase["requests"], said["answers"]):
                key = tuple((meaning[each["name"]], each["scale"]) for each in request["adapters"])
                by_adapters[key].append((request, answer))
        for key, asked in by_adapters.items():
            self.check_answers(key, asked)

    def check_load(self, adapter: Folder, error: dict | None) -> None:
        if error is None:
            if adapter.must_be_refused:
                self.find(f"{adapter.name} was accepted", adapter.what)
            return
        said = f"{error['code']} {plain(error['message'])}"
        if adapter.trained is None:
            self.tally.refusals[f"damaged: {said}"] += 1
        else:
            self.tally.refusals[f"{said} [{self.what_peft_says(adapter)}]"] += 1
            self.tally.examples[said] = str(adapter.path)
        clear = error["code"] in ("UNIMPLEMENTED", "INVALID_ARGUMENT", "DATA_LOSS", "NOT_FOUND")
        if not clear or (adapter.of not in self.refused and adapter.must_name not in error["message"]):
            self.find(f"{adapter.name}: unclear refusal", adapter.what, error)

    def what_peft_says(self, adapter: Folder) -> str:
        try:
            now = oracle.log_softmax_rows(sweep_check.load_adapters(self.model_dir, [(adapter.path, 1)]), PROBE)
        except Exception as error:
            return "peft does not load it: " + plain(str(error))[:60]
        same = now.shape == adapter.trained.shape and (now - adapter.trained).abs().max().item() < 1e-3
        return "peft answers" if same else "peft answers otherwise than before it saved"

    def check_answers(self, key: tuple, asked: list) -> None:
        asked = [(request, answer) for request, answer in asked if not self.is_refused(key, answer)]
        if not asked:
            return
        folders = [self.adapters[name] for name, _ in key]
        about = [f"{each.name}: {each.what}" for each in folders]
        if (len(key) > 1 or any(scale != 1 for _, scale in key)) and any(changes_base(each.path) for each in folders):
            return
        try:
            model = sweep_check.load_adapters(self.model_dir, [(self.adapters[name].path, scale) for name, scale in key])
        except Exception as error:
            damaged = any(each.trained is None for each in folders)
            self.tally.skipped[f"lorad answers, peft does not load{' (damaged)' * damaged}{' (several)' * (len(key) > 1)}: {plain(str(error))}"] += 1
            return
        if len(key) == 1 and key[0][1] == 1 and folders[0].trained is not None:
            now, before = oracle.log_softmax_rows(model, PROBE), folders[0].trained
            changed = (now - before).abs().max().item() if now.shape == before.shape else float("inf")
            if not changed < 1e-3:
                about.append(f"peft's own answer is another before it was saved, by {changed:.4f}")
                self.tally.skipped["peft answers otherwise than before it saved"] += 1
        for request, answer in asked:
            self.tally.counts["answers"] += 1
            self.tally.counts["of several adapters"] += len(key) > 1
            try:
                verdict = sweep_check.compare(model, request, answer)
            except Exception as error:
                self.tally.skipped["peft does not answer: " + plain(str(error))] += 1
                continue
            if verdict.where:
                self.find(f"{key}: {verdict.where}; worst: {verdict.worst:.5f}", *about)
                return
            self.tally.worst = max(self.tally.worst, verdict.worst)

    def is_refused(self, key: tuple, answer: dict) -> bool:
        error = answer.get("error")
        if error is None:
            return False
        if error["code"] != "NOT_LOADED":
            self.tally.refusals[f"request: {error['code']} {plain(error['message'])}"] += 1
            if error["code"] not in ("UNIMPLEMENTED", "INVALID_ARGUMENT"):
                self.find(f"{key}: request failed", error)
        return True
