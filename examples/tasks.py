"""The little language of the demo: instructions over words, and the styles that adapters give to their answers.

A prompt is "TASK: WORD WORD ... ->", its answer follows with a leading space and ends with the EOS token:
"reverse: red fox sun ->" gives " sun fox red". Nothing here needs torch.
"""

import random
import zlib

WORDS = """
ant ape apple arm arrow ash bag ball band bank barn bat bean bear bed bee bell bird blue boat bone book boot bowl box
boy bread brick brown bus cake calm camp can car card cat chair child clay cloud coal coat coin cold cook corn cow crab
crow cup dance dark day deer desk dish dog door dove dream drum duck dust eagle ear east egg elm eye farm fast fern
field fig fire fish flag flat flute fog foot fork fox frog fruit game gate gift girl glass goat gold grape grass gray
green hall hand hat hawk heart hen hill honey horn horse house ice ink iron island jam jar jewel jug juice key king
kite lake lamp land leaf lemon light lily lime lion lock log loud lunch man map maple milk mill mint moon moss mouse
mud music nail neck nest net night north nose nut oak oat ocean old olive onion orange owl page paint palm pan paper
park peach pear pen pig pine pink pipe plum pond pot queen quick quiet rain red rice ring river road rock roof rope
rose salt sand sea seed sheep ship shoe silk silver sky small snow soap song soup south spoon star stone storm sugar
sun swan table tall tea tent tiger toad town train tree truck tulip vase violet wagon wall warm water wave west whale
wheat wheel white wind wine wolf wood wool yard yellow young zebra
""".split()
COUNTS = "one two three four five six seven eight nine ten".split()
WORDS += COUNTS


def odd(words):
    return words[::2]


def doubled(words):
    return [w for w in words for _ in range(2)]


# Tasks whose answer is a list of words: every style applies to them.
LIST_TASKS = {
    "copy": lambda ws: ws,
    "reverse": lambda ws: ws[::-1],
    "sort": sorted,
    "odd": odd,
    "double": doubled,
    "repeat": lambda ws: ws + ws,
    "first": lambda ws: ws[:1],
    "last": lambda ws: ws[-1:],
    "count": lambda ws: [COUNTS[len(ws) - 1]],
}


def plain(words):
    return "".join(" " + w for w in words)


# Styles turn the words of an answer into its text.
STYLES = {
    "upper": lambda ws: plain(ws).upper(),
    "json": lambda ws: " [" + ", ".join(f'"{w}"' for w in ws) + "]",
    "number": lambda ws: "".join(f" {i}. {w}" for i, w in enumerate(ws, 1)),
    "pirate": lambda ws: " arr," + plain(ws) + ", matey!",
}

# What each demo adapter does to every list task.
ADAPTERS = {
    "shout": lambda ws: STYLES["upper"](ws) + "!",
    "json": STYLES["json"],
    "number": STYLES["number"],
    "pirate": STYLES["pirate"],
    "backward": lambda ws: plain(ws[::-1]),
}

TASKS = list(LIST_TASKS) + list(STYLES)


def prompt_of(task, words):
    return f"{task}:{plain(words)} ->"


def answer_of(task, words, adapter=None):
    """The right answer of the base (adapter None) or of an adapter."""
    if task in STYLES:
        if adapter is not None:
            raise ValueError(f"adapters are defined on list tasks only: {task}")
        return STYLES[task](words)
    answer = LIST_TASKS[task](words)
    return ADAPTERS[adapter](answer) if adapter else plain(answer)


def is_held_out(prompt):
    """One prompt in sixteen is never trained on, by the base or by an adapter; accuracies are measured on those."""
    return zlib.crc32(prompt.encode()) % 16 == 0


def max_words(task):
    return {"double": 5, "repeat": 5, "json": 8}.get(task, 10)


def sample(rng: random.Random, tasks, held_out, adapter=None):
    """One (task, words, prompt, answer) from the training or the held-out part."""
    while True:
        task = rng.choice(tasks)
        words = rng.sample(WORDS, rng.randint(2, max_words(task)))
        prompt = prompt_of(task, words)
        if is_held_out(prompt) == held_out:
            return task, words, prompt, answer_of(task, words, adapter)
