// SPDX-License-Identifier: Apache-2.0
// The admin's answers, with its token if it wants one, and the stream of what goes on.

const KEY = "aigw-admin-token";

/** The admin wants a token, or another one. */
export class TokenWanted extends Error {}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

/** @returns {Promise<Response>} Rejects with TokenWanted where the token is missing or wrong. */
export async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(token === null ? {} : { authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new TokenWanted(token === null ? "" : "That token is not the right one");
  return response;
}

/**
 * Reads the events of a stream for ever: begins again, after a pause, when it ends.
 * @param {string} path
 * @param {Record<string, (data: unknown) => void>} handlers By the name of an event.
 * @param {(connected: boolean, error?: Error) => void} told
 */
export async function follow(path, handlers, told) {
  for (;;) {
    let error;
    try {
      const response = await ask(path, { headers: { accept: "text/event-stream" } });
      if (!response.ok) throw new Error(`${path} answers ${response.status}`);
      told(true);
      await readEvents(response.body, handlers);
    } catch (caught) {
      error = caught;
    }
    told(false, error);
    if (error instanceof TokenWanted) return;
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

async function readEvents(body, handlers) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      // By line feeds alone: JSON may hold what a regular expression takes for the end of a line.
      const lines = text.slice(0, end).split("\n");
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const [event, data] = [field("event"), field("data")];
      text = text.slice(end + 2);
      if (event !== undefined && data !== undefined) handlers[event]?.(JSON.parse(data));
    }
  }
}
