#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_gguf.py OUT.gguf: a random Llama of about 1.4 M parameters with a tokenizer of bytes and made-up words, for llama.cpp.

Run it with the Python of the venv of setup.sh (numpy and gguf are all it needs). It skips what is there."""
import os
import random
import sys
from pathlib import Path

import gguf
import numpy as np

out = Path(sys.argv[1])
LAYERS, HIDDEN, KV_HEADS, HEADS, FFN, VOCAB = 4, 128, 2, 4, 448, 4000
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
if out.exists():
    sys.exit(0)
out.parent.mkdir(parents=True, exist_ok=True)

# A SentencePiece-like vocabulary: specials, the 256 bytes, then pieces with falling scores.
rng = random.Random(7)
T = gguf.TokenType
tokens = ["<unk>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
types = [T.UNKNOWN] + [T.CONTROL] * 5
tokens += [f"<0x{b:02X}>" for b in range(256)]
types += [T.BYTE] * 256
pieces = ["\u2581"] + [chr(c) for c in range(33, 127)]
starts = "b br c ch d f g gr h j k l m n p pl qu r s st t tr v w".split()
ends = "an ar en er ing ion ist le ly ment ness on or ous st ter tion um ur y".split()
seen = set(pieces)
while len(tokens) + len(pieces) < VOCAB:
    piece = rng.choice(["", "\u2581"]) + rng.choice(starts) + rng.choice("aeiou") + rng.choice(ends + [""] * 8)
    if piece not in seen:
        seen.add(piece)
        pieces.append(piece)
scores = [0.0] * len(tokens) + [-float(i) for i in range(len(pieces))]
tokens += pieces
types += [T.NORMAL] * len(pieces)

w = gguf.GGUFWriter(str(out) + ".part", "llama")
w.add_name("tiny")
w.add_vocab_size(VOCAB)
w.add_context_length(4096)
w.add_embedding_length(HIDDEN)
w.add_block_count(LAYERS)
w.add_feed_forward_length(FFN)
w.add_head_count(HEADS)
w.add_head_count_kv(KV_HEADS)
w.add_layer_norm_rms_eps(1e-5)
w.add_rope_dimension_count(HIDDEN // HEADS)
w.add_file_type(gguf.LlamaFileType.ALL_F32)
w.add_tokenizer_model("llama")
w.add_token_list(tokens)
w.add_token_scores(scores)
w.add_token_types(types)
w.add_bos_token_id(1)
w.add_eos_token_id(2)
w.add_unk_token_id(0)
w.add_add_bos_token(False)
w.add_add_space_prefix(False)
w.add_chat_template(TEMPLATE)
values = np.random.default_rng(7)


def add(name, *shape):
    """One weight matrix (outputs, inputs)."""
    w.add_tensor(name, (values.standard_normal(shape) * 0.08).astype(np.float32))


kv = HIDDEN // HEADS * KV_HEADS
add("token_embd.weight", VOCAB, HIDDEN)
w.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
for i in range(LAYERS):
    for norm in ("attn_norm", "ffn_norm"):
        w.add_tensor(f"blk.{i}.{norm}.weight", np.ones(HIDDEN, np.float32))
    add(f"blk.{i}.attn_q.weight", HIDDEN, HIDDEN)
    add(f"blk.{i}.attn_k.weight", kv, HIDDEN)
    add(f"blk.{i}.attn_v.weight", kv, HIDDEN)
    add(f"blk.{i}.attn_output.weight", HIDDEN, HIDDEN)
    add(f"blk.{i}.ffn_gate.weight", FFN, HIDDEN)
    add(f"blk.{i}.ffn_up.weight", FFN, HIDDEN)
    add(f"blk.{i}.ffn_down.weight", HIDDEN, FFN)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
os.rename(str(out) + ".part", out)
