#!/usr/bin/env python
"""Writes tests/golden/chat: conversations rendered and marked by transformers' apply_chat_template.

Each case: the template, the tokenizer's folder, messages, and what transformers made of them: text, token ids, and the
mask of {% generation %} (absent where the template has no such tags). Templates are of the families' shapes.
"""

import json
import pathlib

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent

CHATML = (
    "{% for message in messages %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}\n"
    "{% if message['role'] == 'assistant' %}\n"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\n"
    "{% else %}\n"
    "{{ message['content'] + '<|im_end|>' }}\n"
    "{% endif %}\n"
    "{{ '\\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
)
TEMPLATES = {
    "chatml": CHATML,
    "chatml_trimmed": (
        "{%- for m in messages -%}\n  {%- if m.role == 'assistant' -%}\n    <|im_start|>assistant\n"
        "    {%- generation -%}  {{ m.content | trim }}<|im_end|>{%- endgeneration -%}\n  {%- else -%}\n"
        "    <|im_start|>{{ m.role }}\n{{ m.content.strip() }}<|im_end|>\n  {%- endif -%}\n{%- endfor -%}\n"
    ),
    "unmarked": (
        "{{ bos_token }}{% for message in messages %}{% if loop.first and message.role == 'system' %}"
        "{{ message.content }}\n\n{% continue %}{% endif %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>' ~ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "tools": (
        "{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}\n{{ tool | tojson(indent=2) }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
        "{% for m in messages if m.content is string %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content.upper() if m.role.startswith('sys') else m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    ),
    "picky": "{% if messages[0].role != 'user' %}{{ raise_exception('the first message must be the user\\'s') }}{% endif %}{{ messages[0].content }}",
}
TWO_TURNS = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Name a colour, <b>please</b>?"},
    {"role": "assistant", "content": " green & \"blue\" "},
    {"role": "user", "content": "Äpfel 🍏 und Öl?"},
    {"role": "assistant", "content": "ja\nnein"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Wetter für \"Städte\" <now>", "parameters": {"z": 1, "a": [1.5, None, True]}}}]
CASES = [
    ("chatml", TWO_TURNS, None), ("chatml", TWO_TURNS[1:3], None), ("chatml_trimmed", TWO_TURNS, None),
    ("unmarked", TWO_TURNS, None), ("tools", TWO_TURNS, TOOLS), ("tools", TWO_TURNS, None), ("picky", TWO_TURNS[1:], None),
    ("picky", TWO_TURNS, None),
]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(HERE / "tokenizers/qwen2")
    cases = []
    for name, messages, tools in CASES:
        template = TEMPLATES[name]
        case = {"template": name, "messages": messages, "tools": tools}
        common = {"chat_template": template, "tools": tools}
        try:
            case["text"] = tokenizer.apply_chat_template(messages, tokenize=False, **common)
        except Exception as error:  # what a template raises is the answer
            cases.append(case | {"error": str(error)})
            continue
        marked = "{% generation" in template or "{%- generation" in template
        made = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=marked, **common)
        case["ids"] = list(made["input_ids"])
        if marked:
            case["mask"] = list(made["assistant_masks"])
        cases.append(case)
    folder = HERE / "chat"
    folder.mkdir(exist_ok=True)
    (folder / "templates.json").write_text(json.dumps(TEMPLATES, indent=1) + "\n")
    (folder / "cases.json").write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")
    print(len(cases), "cases", [sum(c.get("mask", [])) for c in cases])


if __name__ == "__main__":
    main()
