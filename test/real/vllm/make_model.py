#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_model.py DIR: a random Llama of about 1.4 M parameters in DIR/model and a LoRA adapter for it in DIR/adapter.

Run it with the Python of the venv of setup.sh. It skips what is there."""
import json
import random
import sys
from pathlib import Path

root = Path(sys.argv[1])
model_dir, adapter_dir = root / "model", root / "adapter"
LAYERS, HIDDEN, KV_HEADS, HEADS, FFN, VOCAB, RANK = 4, 128, 2, 4, 448, 4000, 8
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def words(rng):
    """Made-up words, so that a BPE of 4,000 tokens has something to learn from."""
    starts = "b br c ch d f g gr h j k l m n p pl qu r s st t tr v w".split()
    ends = "an ar en er ing ion ist le ly ment ness on or ous st ter tion um ur y".split()
    vowels = "a e i o u ai ea ou".split()
    return sorted({rng.choice(starts) + rng.choice(vowels) + rng.choice(ends) for _ in range(6000)})


def make_model():
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(7)
    vocabulary = words(rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    lines = (" ".join(rng.choices(vocabulary, k=60)) for _ in range(3000))
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>",
        model_max_length=4096,
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ))
    print("tokens", len(fast), "parameters", sum(p.numel() for p in model.parameters()))
    fast.save_pretrained(model_dir)
    model.to(torch.float32).save_pretrained(model_dir)
    (model_dir / ".ready").touch()


def make_adapter():
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(8)
    kv = HIDDEN // HEADS * KV_HEADS
    tensors = {}
    for layer in range(LAYERS):
        for name, out in (("q_proj", HIDDEN), ("v_proj", kv)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{at}.lora_A.weight"] = torch.randn(RANK, HIDDEN) * 0.5
            tensors[f"{at}.lora_B.weight"] = torch.randn(out, RANK) * 0.5
    adapter_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(adapter_dir / "adapter_model.safetensors"), metadata={"format": "pt"})
    (adapter_dir / "adapter_config.json").write_text(json.dumps({
        "base_model_name_or_path": str(model_dir), "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": 16, "lora_dropout": 0.0, "modules_to_save": None,
        "peft_type": "LORA", "r": RANK, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
        "use_dora": False, "use_rslora": False,
    }, indent=2) + "\n")


if not (model_dir / ".ready").exists():
    make_model()
if not (adapter_dir / "adapter_config.json").exists():
    make_adapter()
