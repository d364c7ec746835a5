// SPDX-License-Identifier: Apache-2.0

/** SHA-256 of a text as hexadecimal digits: how the configuration holds keys. */
export async function sha256(text: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
