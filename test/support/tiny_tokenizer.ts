// SPDX-License-Identifier: Apache-2.0
// A tokenizer whose tokens are bytes, pairs of small letters, and the marks of ChatML.

import type { TokenizerFiles } from "../../src/tokens/prompt_tokenizer.ts";

/** The letters that stand for bytes in vocabularies of this kind. */
function letters(): string[] {
  const plain = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(plain(byte) ? byte : next++));
}

const TEMPLATE =
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

export function tinyTokenizer(): TokenizerFiles {
  const small = Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i));
  const merges = small.flatMap((a) => small.map((b) => [a, b]));
  const vocabulary = [...letters(), ...merges.map((pair) => pair.join(""))];
  const special = ["<|im_start|>", "<|im_end|>"];
  return {
    tokenizer: {
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: special.map((content, i) => ({
        id: vocabulary.length + i,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      })),
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: null,
      decoder: { type: "ByteLevel" },
      model: {
        type: "BPE",
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
        merges,
      },
    },
    config: { chat_template: TEMPLATE, eos_token: "<|im_end|>" },
  };
}

/** Its files in a folder of their own; returns the path of tokenizer.json. */
export async function tinyTokenizerFile(): Promise<string> {
  const folder = await Deno.makeTempDir();
  const { tokenizer, config } = tinyTokenizer();
  await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(tokenizer));
  await Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(config));
  return `${folder}/tokenizer.json`;
}
