// SPDX-License-Identifier: Apache-2.0
// What engines with OpenAI's API list in /v1/models.

import { z } from "zod";

/** A model that an engine lists. */
export interface ListedByEngine {
  readonly id: string;
  /** Longest prompt and answer in tokens; undefined when the engine does not say. */
  readonly maxModelLen: number | undefined;
  /** "vllm", "sglang", …: what the engine calls itself there. */
  readonly ownedBy: string;
  /** It is a LoRA adapter on another model. */
  readonly parent: string | undefined;
}

const listSchema = z.looseObject({
  data: z.array(z.looseObject({
    id: z.string().min(1).max(512).regex(/^[^\r\n]+$/),
    owned_by: z.string().nullish(),
    parent: z.string().nullish(),
    max_model_len: z.number().positive().nullish(),
  })).max(10_000),
});

/** The models of a list; undefined when it is none. */
export function readModels(text: string): ListedByEngine[] | undefined {
  try {
    return listSchema.parse(JSON.parse(text)).data.map(({ id, owned_by, parent, max_model_len }) => ({
      id,
      maxModelLen: max_model_len ?? undefined,
      ownedBy: owned_by ?? "",
      parent: parent ?? undefined,
    }));
  } catch {
    return undefined;
  }
}
