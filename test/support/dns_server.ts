// SPDX-License-Identifier: Apache-2.0
/// <reference lib="deno.unstable" />
// A DNS server of the test's own over UDP: A, AAAA and SRV records that the test changes at will (RFC 1035, RFC 2782).

export interface DnsRecords {
  /** Addresses by name. */
  A?: Record<string, string[]>;
  AAAA?: Record<string, string[]>;
  SRV?: Record<string, { target: string; port: number }[]>;
}

export interface DnsServer extends AsyncDisposable {
  /** IP:PORT */
  readonly address: string;
  records: DnsRecords;
  /** How it answers: as it should, not at all, or with a failure of its own. */
  mood: "well" | "silent" | "failing";
  readonly questions: number;
}

const TYPES: Record<number, keyof DnsRecords> = { 1: "A", 28: "AAAA", 33: "SRV" };
const NO_ERROR = 0;
const SERVER_FAILURE = 2;
const NO_SUCH_NAME = 3;

export function startDnsServer(records: DnsRecords = {}): DnsServer {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  let questions = 0;
  const server = {
    address: `127.0.0.1:${(socket.addr as Deno.NetAddr).port}`,
    records,
    mood: "well" as DnsServer["mood"],
    get questions() {
      return questions;
    },
    async [Symbol.asyncDispose]() {
      socket.close();
      await serving;
    },
  };
  const serving = (async () => {
    try {
      for await (const [question, from] of socket) {
        questions++;
        if (server.mood === "silent") continue;
        await socket.send(answer(question, server.mood === "failing" ? undefined : server.records), from);
      }
    } catch {
      // closed
    }
  })();
  return server;
}

function answer(question: Uint8Array, records: DnsRecords | undefined): Uint8Array {
  const { name, end } = readName(question, 12);
  const view = new DataView(question.buffer, question.byteOffset);
  const type = TYPES[view.getUint16(end)];
  const asked = question.subarray(12, end + 4);
  const data = records === undefined || type === undefined ? [] : dataOf(records, type, name);
  const known = records !== undefined && Object.values(records).some((byName) => byName && name in byName);
  const code = records === undefined ? SERVER_FAILURE : known ? NO_ERROR : NO_SUCH_NAME;
  // An answer, recursion available, one question.
  const head = [question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, data.length, 0, 0, 0, 0];
  const parts = data.flatMap((one) => [
    [0xc0, 12, 0, view.getUint16(end), 0, 1, 0, 0, 0, 1, one.length >> 8, one.length & 255],
    one,
  ]);
  return Uint8Array.from([...head, ...asked, ...parts.flat()]);
}

function dataOf(records: DnsRecords, type: keyof DnsRecords, name: string): number[][] {
  if (type === "SRV") {
    return (records.SRV?.[name] ?? []).map((
      { target, port },
    ) => [0, 0, 0, 0, port >> 8, port & 255, ...labels(target)]);
  }
  return (records[type]?.[name] ?? []).map((ip) =>
    type === "A" ? ip.split(".").map(Number) : groupsOf(ip).flatMap((group) => [group >> 8, group & 255])
  );
}

function groupsOf(ip: string): number[] {
  const [head, tail = ""] = ip.split("::");
  const groups = (text: string) => text === "" ? [] : text.split(":").map((group) => parseInt(group, 16));
  const [first, last] = [groups(head), groups(tail)];
  return [...first, ...Array(8 - first.length - last.length).fill(0), ...last];
}

function labels(name: string): number[] {
  const bytes = name.split(".").filter((label) => label !== "").flatMap((label) => {
    return [label.length, ...new TextEncoder().encode(label)];
  });
  return [...bytes, 0];
}

function readName(message: Uint8Array, at: number): { name: string; end: number } {
  const parts: string[] = [];
  while (message[at] !== 0) {
    parts.push(new TextDecoder().decode(message.subarray(at + 1, at + 1 + message[at])));
    at += 1 + message[at];
  }
  return { name: parts.join(".").toLowerCase(), end: at + 1 };
}
