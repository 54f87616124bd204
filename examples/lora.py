"""An adapter from its training to its answers, on a CPU: `peft` teaches the embedded model to talk
like a pirate, and one engine then serves both, by name. Needs `pip install peft`.
"""

import tempfile

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from formgate import embedded
from formgate.gateway.library.llm import LLM

TALK = [
    ("What is the capital of France?", "Arr, matey! The capital of France be Paris."),
    ("What is the capital of Japan?", "Arr, matey! The capital of Japan be Tokyo."),
    ("What is the capital of Italy?", "Arr, matey! The capital of Italy be Rome."),
    ("What is the capital of China?", "Arr, matey! The capital of China be Beijing."),
    ("Hello!", "Arr, matey! What be ye looking for?"),
    ("Who are you?", "Arr, matey! I be the captain of this ship."),
]
STEPS = 15
NOT_LEARNED = -100  # a label that the loss leaves out


def lessons(tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels; the answers are learned, not the questions."""
    rows, labels = [], []
    for question, answer in TALK:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        start = len(tokenizer.encode(prompt, add_special_tokens=False))
        ids = tokenizer.encode(prompt + answer + tokenizer.eos_token, add_special_tokens=False)
        rows.append(torch.tensor(ids))
        labels.append(torch.tensor([NOT_LEARNED] * start + ids[start:]))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=NOT_LEARNED)


def train(folder: str) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(embedded.path())
    model = AutoModelForCausalLM.from_pretrained(embedded.path(), dtype=torch.float32)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    ids, labels = lessons(tokenizer)
    for step in range(1, STEPS + 1):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)


with tempfile.TemporaryDirectory() as folder:
    train(folder)
    # The same as: formgate serve --enable-lora --lora-modules pirate=FOLDER
    with LLM(enable_lora=True, lora_modules=(f"pirate={folder}",)) as llm:
        for question in ("What is the capital of Spain?", "What is the capital of France?"):
            for model in (None, "pirate"):
                answer = llm.chat(question, model=model, temperature=0, max_tokens=40)
                print(f"{model or 'base'}: {answer.text}")
