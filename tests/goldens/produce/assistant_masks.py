"""Token ids of conversations and which of them are the assistant's, as transformers tells it (return_assistant_tokens_mask).

    python assistant_masks.py MODELS_DIR OUT_DIR

MODELS_DIR holds llama-tiny, whose tokenizer is used. Each template comes twice: with {% generation %} for the mask, and without
(`plain`), from which spo derives the same.
"""
import json
import sys

from transformers import AutoTokenizer

# Where the text of an answer begins and ends: G is {% generation %}, E is {% endgeneration %}.
TEMPLATES = {
    # The turn with the token that ends it, and the line break behind.
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{G}{{ m.content }}<|im_end|>\n{E}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # Nothing between turns, and the text trimmed.
    "headers": "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{G}{{ m.content | trim }}{{ eos_token }}{E}"
    "{% else %}{{ m.content | trim }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    # Turns in one line, with blanks at which tokens merge.
    "inst": "{% for m in messages %}{% if m.role == 'assistant' %}{G} {{ m.content }} {{ eos_token }}{E}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
}

user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}
CONVERSATIONS = {
    "one turn": [user("2 + 2?"), assistant("Four.")],
    "three turns": [user("Hello"), assistant(" Hi!\nHow are you? "), user("Größe 😀?"), assistant("naïve 😀 é"), user("end"), assistant("")],
    "a system prompt": [{"role": "system", "content": "Be brief."}, user("a"), assistant("b"), user("c"), assistant("d")],
    "the assistant first": [assistant("Welcome."), user("a"), assistant("b")],
    "two answers in a row": [user("a"), assistant("b"), assistant("c"), user("d"), assistant("e")],
}


def main(models, out):
    tokenizer = AutoTokenizer.from_pretrained(f"{models}/llama-tiny")
    cases = []
    for name, template in TEMPLATES.items():
        marked = template.replace("{G}", "{% generation %}").replace("{E}", "{% endgeneration %}")
        plain = template.replace("{G}", "").replace("{E}", "")
        for about, messages in CONVERSATIONS.items():
            tokenizer.chat_template = marked
            found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
            cases.append({
                "about": f"{name}: {about}",
                "marked": marked,
                "plain": plain,
                "messages": messages,
                "ids": found["input_ids"],
                "mask": found["assistant_masks"],
            })
    with open(f"{out}/assistant_masks.json", "w") as file:
        json.dump(cases, file, ensure_ascii=False, indent=0)
        file.write("\n")


main(*sys.argv[1:])
