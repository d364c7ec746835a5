// SPDX-License-Identifier: Apache-2.0
// Clients that leave before they have got a head. The runtime does not tell of them, so their engine would compute for
// nobody. The system knows: a connection that its other end has closed is in CLOSE_WAIT. While requests wait for longer than
// a moment, the table of connections is looked at, a few times a second and never for more than a twentieth of the time.

import type { Clock } from "../../base/clock.ts";
import type { Arrival } from "./exchange.ts";
import { type Placed, PlacedList } from "../../base/placed_list.ts";

/** A request that waits for its answer. */
export interface WaitingClient extends Placed {
  readonly arrival: Arrival;
  readonly since: number;
  leave(): void;
}

/** Text of the system's table of connections, in the form of /proc/net/tcp. */
export type ConnectionTable = () => Promise<string>;

/** A look may take this share of the time between two. */
const MAX_SHARE = 1 / 20;

export class Leavers {
  readonly #waiting = new PlacedList<WaitingClient>();
  #cancel: (() => void) | undefined;
  #looking = false;

  /** @param ms Between two looks, and how long a request waits before its client is looked for; 0 for never. */
  constructor(readonly clock: Clock, readonly table: ConnectionTable, public ms: number) {}

  /** Its client is looked for until `unwatch`. */
  watch(client: WaitingClient): void {
    if (this.ms === 0) return;
    this.#waiting.add(client);
    if (!this.#looking) this.#cancel ??= this.clock.after(this.ms, this.#look);
  }

  unwatch(client: WaitingClient): void {
    this.#waiting.remove(client);
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
    this.#waiting.clear();
  }

  get size(): number {
    return this.#waiting.size;
  }

  readonly #look = async (): Promise<void> => {
    this.#cancel = undefined;
    const began = this.clock.now();
    const long = this.#waiting.filter(({ since }) => began - since >= this.ms);
    let pause = this.ms;
    if (long.length > 0) {
      this.#looking = true;
      try {
        const left = closedByPeer(await this.table());
        for (const client of long) {
          if (client.place >= 0 && left.has(keyOf(client))) client.leave();
        }
      } catch {
        this.ms = 0; // there is no such table here
        this.#waiting.clear();
      }
      this.#looking = false;
      pause = Math.max(this.ms, (this.clock.now() - began) / MAX_SHARE);
    }
    if (this.#waiting.size > 0) this.#cancel ??= this.clock.after(pause, this.#look);
  };
}

function keyOf({ arrival: { info, port } }: WaitingClient): string {
  const { hostname, port: remote } = info.remoteAddr as Deno.NetAddr;
  return `${port} ${plain(hostname)} ${remote}`;
}

const CLOSE_WAIT = /^ *\d+: [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]+):([0-9A-F]{4}) 08 /gm;

/** The connections that their other ends have closed: local port, remote address, remote port. */
export function closedByPeer(table: string): Set<string> {
  const found = new Set<string>();
  for (const [, port, address, remote] of table.matchAll(CLOSE_WAIT)) {
    found.add(`${parseInt(port, 16)} ${addressOf(address)} ${parseInt(remote, 16)}`);
  }
  return found;
}

// The words of an address as a little-endian machine prints them.
function addressOf(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) =>
    word.match(/../g)!.reverse().map((byte) => parseInt(byte, 16))
  );
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from({ length: 8 }, (_, i) => (bytes[2 * i] << 8 | bytes[2 * i + 1]).toString(16));
  return plain(groups.join(":"));
}

// One spelling of an address; one of IPv4 in IPv6 is that of IPv4.
function plain(hostname: string): string {
  if (!hostname.includes(":")) return hostname;
  const spelled = new URL(`http://[${hostname}]/`).hostname.slice(1, -1);
  const [, high, low] = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(spelled) ?? [];
  if (low === undefined) return spelled;
  const [a, b] = [parseInt(high, 16), parseInt(low, 16)];
  return [a >> 8, a & 255, b >> 8, b & 255].join(".");
}

const TABLES = ["/proc/net/tcp", "/proc/net/tcp6"];

/** The table of a Linux system: read where everything is allowed, else by `cat`. Rejects where there is neither. */
export async function systemConnections(): Promise<string> {
  // Asked for before: what is not allowed would be asked of the user at a terminal.
  if (NEEDED.every((name) => Deno.permissions.querySync({ name }).state === "granted")) {
    return (await Promise.all(TABLES.map((path) => Deno.readTextFile(path)))).join("");
  }
  if (Deno.permissions.querySync({ name: "run", command: "cat" }).state !== "granted") {
    throw new Deno.errors.NotCapable("neither may all be read nor cat be run");
  }
  const command = new Deno.Command("cat", { args: TABLES, stdin: "null", stdout: "piped", stderr: "null" });
  return decoder.decode((await command.output()).stdout);
}

/** What --allow-all allows: less is not enough for /proc. */
const NEEDED = ["read", "write", "net", "env", "run", "sys", "ffi"] as const;
const decoder = new TextDecoder();
