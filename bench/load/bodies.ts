// SPDX-License-Identifier: Apache-2.0
// Chats as a fleet gets them: many that share beginnings, no two alike.

/** Chats that begin alike. */
const SHARED = 8;
/** Share of a prompt that is such a beginning. */
const BEGINNING = 0.6;

/** A seeded generator of 32 bits (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t ^= t + Math.imul(t ^ (t >>> 7), 61 | t);
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/** So many bodies of so many bytes each. */
export function chats(count: number, bytes: number, stream: boolean, tokens: number): string[] {
  const text = (next: () => number, length: number) => {
    let out = "";
    while (out.length < length) out += `${next().toString(36)} `;
    return out.slice(0, length);
  };
  return Array.from({ length: count }, (_, i) => {
    const body = { model: "m", stream, max_tokens: tokens, messages: [{ role: "user", content: "" }] };
    const room = Math.max(16, bytes - JSON.stringify(body).length);
    const shared = Math.floor(room * BEGINNING);
    body.messages[0].content = text(generator(Math.floor(i / SHARED)), shared) +
      text(generator(1_000_000 + i), room - shared);
    return JSON.stringify(body);
  });
}
