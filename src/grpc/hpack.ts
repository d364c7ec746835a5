// SPDX-License-Identifier: Apache-2.0
// Header compression for HTTP/2 (RFC 7541): the whole decoder, and of the encoder what a server of few fields needs,
// literals that enter no table.

/** A header block cannot be decoded: the state of the connection is lost with it. */
export class HpackError extends Error {
  override readonly name = "HpackError";
}

/** Appendix A, in its order: names, and behind a tab their values. */
const STATIC = [
  ":authority",
  ":method\tGET",
  ":method\tPOST",
  ":path\t/",
  ":path\t/index.html",
  ":scheme\thttp",
  ":scheme\thttps",
  ...[200, 204, 206, 304, 400, 404, 500].map((status) => `:status\t${status}`),
  "accept-charset",
  "accept-encoding\tgzip, deflate",
  "accept-language",
  "accept-ranges",
  "accept",
  "access-control-allow-origin",
  "age",
  "allow",
  "authorization",
  "cache-control",
  "content-disposition",
  "content-encoding",
  "content-language",
  "content-length",
  "content-location",
  "content-range",
  "content-type",
  "cookie",
  "date",
  "etag",
  "expect",
  "expires",
  "from",
  "host",
  "if-match",
  "if-modified-since",
  "if-none-match",
  "if-range",
  "if-unmodified-since",
  "last-modified",
  "link",
  "location",
  "max-forwards",
  "proxy-authenticate",
  "proxy-authorization",
  "range",
  "referer",
  "refresh",
  "retry-after",
  "server",
  "set-cookie",
  "strict-transport-security",
  "transfer-encoding",
  "user-agent",
  "vary",
  "via",
  "www-authenticate",
].map((line): Entry => {
  const [name, value = ""] = line.split("\t");
  return { name, value };
});

interface Entry {
  readonly name: string;
  readonly value: string;
}

/** What an entry takes beside its text (section 4.1). */
const ENTRY_BYTES = 32;

/**
 * Lengths of the Huffman codes of the bytes 0 to 255 (Appendix B), a character each: "a" is 1 bit, "~" 30. The code is
 * canonical, so its lengths are all of it; the end-of-string symbol has 30 bits.
 */
const CODE_LENGTHS =
  "mw|||||||x~||~||||||||~|||||||||fjjlmfhkjjhkhfffeeefffffffghofljmfgggggggggggggggggggggghghmsmnf" +
  "oefefefffeggfffefgfeefgggggoknm|tvttvvvwvwwwwwxwxxvwxwwwwuvwvwwxvutvvwwuwvvxuvwwuuvuwvwwtvvvwvvw" +
  "zztsvwvyzzz{{zxysuz{{z{xuuzz|{{{txtuvuuwvvyyxxzwz{zz{{{{{|{{{{{z";

// The code of the first symbol of each length, its place among the symbols in the order of their codes, and how many
// there are.
const { firstCode, firstPlace, counts, symbols } = codes();

function codes() {
  const lengths = [...Array.from(CODE_LENGTHS, (letter) => letter.charCodeAt(0) - 96), 30];
  const counts = new Uint16Array(31);
  for (const length of lengths) counts[length]++;
  const [firstCode, firstPlace] = [new Uint32Array(31), new Uint16Array(31)];
  for (let length = 1, code = 0, place = 0; length <= 30; length++) {
    code <<= 1;
    firstCode[length] = code;
    firstPlace[length] = place;
    code += counts[length];
    place += counts[length];
  }
  const symbols = lengths.map((length, symbol) => ({ length, symbol })).sort((a, b) =>
    a.length - b.length || a.symbol - b.symbol
  ).map(({ symbol }) => symbol);
  return { firstCode, firstPlace, counts, symbols };
}

const END_OF_STRING = 256;

function huffman(bytes: Uint8Array): string {
  let text = "";
  let code = 0;
  let length = 0;
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit--) {
      code = (code << 1) | ((byte >> bit) & 1);
      length++;
      const offset = code - firstCode[length];
      if (offset >= 0 && offset < counts[length]) {
        const symbol = symbols[firstPlace[length] + offset];
        if (symbol === END_OF_STRING) throw new HpackError("the end-of-string symbol stands in a string");
        text += String.fromCharCode(symbol);
        code = length = 0;
      } else if (length === 30) throw new HpackError("a string has an unknown code");
    }
  }
  // What fills the last byte is the beginning of the end-of-string symbol: ones, less than a byte.
  if (length > 7 || code !== (1 << length) - 1) throw new HpackError("a string has wrong padding");
  return text;
}

/** The decoder of one direction of a connection. */
export class HeaderDecoder {
  /** Newest first. */
  readonly #dynamic: Entry[] = [];
  #tableBytes = 0;
  #maxTableBytes: number;
  #block: Uint8Array = new Uint8Array(0);
  #at = 0;

  /**
   * @param limit Bytes of the table that the peer may use: SETTINGS_HEADER_TABLE_SIZE.
   * @param maxListBytes Most that the fields of a block may come to, each counted as a table entry.
   */
  constructor(readonly limit: number, readonly maxListBytes: number) {
    this.#maxTableBytes = limit;
  }

  /** The fields of a block, names and values in turn; undefined when they are more than may be. Throws HpackError. */
  decode(block: Uint8Array): string[] | undefined {
    this.#block = block;
    this.#at = 0;
    const fields: string[] = [];
    let bytes = 0;
    while (this.#at < block.length) {
      const first = block[this.#at];
      if ((first & 0xe0) === 0x20) {
        if (bytes > 0) throw new HpackError("the table is resized behind a field");
        this.#resize(this.#integer(5));
        continue;
      }
      const entry = this.#field(first);
      bytes += entry.name.length + entry.value.length + ENTRY_BYTES;
      // What is too much is still decoded: the table has to stay that of the peer.
      if (bytes <= this.maxListBytes) fields.push(entry.name, entry.value);
    }
    return bytes > this.maxListBytes ? undefined : fields;
  }

  #field(first: number): Entry {
    if (first & 0x80) return this.#entry(this.#integer(7));
    const indexed = (first & 0x40) !== 0;
    const index = this.#integer(indexed ? 6 : 4);
    const name = index === 0 ? this.#string() : this.#entry(index).name;
    const entry = { name, value: this.#string() };
    if (indexed) this.#add(entry);
    return entry;
  }

  #entry(index: number): Entry {
    const entry = index <= STATIC.length ? STATIC[index - 1] : this.#dynamic[index - STATIC.length - 1];
    if (entry === undefined) throw new HpackError(`there is no entry ${index}`);
    return entry;
  }

  #add(entry: Entry): void {
    const size = entry.name.length + entry.value.length + ENTRY_BYTES;
    this.#evict(this.#maxTableBytes - size);
    if (size > this.#maxTableBytes) return;
    this.#dynamic.unshift(entry);
    this.#tableBytes += size;
  }

  #resize(bytes: number): void {
    if (bytes > this.limit) throw new HpackError(`the table is to be of ${bytes} bytes, at most ${this.limit}`);
    this.#maxTableBytes = bytes;
    this.#evict(bytes);
  }

  #evict(room: number): void {
    while (this.#tableBytes > Math.max(0, room) && this.#dynamic.length > 0) {
      const { name, value } = this.#dynamic.pop()!;
      this.#tableBytes -= name.length + value.length + ENTRY_BYTES;
    }
  }

  #integer(prefix: number): number {
    const most = (1 << prefix) - 1;
    let value = this.#next() & most;
    if (value < most) return value;
    for (let shift = 0;; shift += 7) {
      if (shift > 21) throw new HpackError("an integer is too large");
      const byte = this.#next();
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  }

  #string(): string {
    const coded = (this.#block[this.#at] & 0x80) !== 0;
    const length = this.#integer(7);
    const bytes = this.#block.subarray(this.#at, this.#at + length);
    if (bytes.length < length) throw new HpackError("a string ends behind its block");
    this.#at += length;
    return coded ? huffman(bytes) : latin1(bytes);
  }

  #next(): number {
    if (this.#at >= this.#block.length) throw new HpackError("a field ends behind its block");
    return this.#block[this.#at++];
  }
}

// Field values are bytes.
function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** A block of fields, names and values in turn, that enters no table. Texts are of one byte a character. */
export function encodeFields(fields: readonly string[]): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  const string = (text: string): void => {
    integer(bytes, 7, 0, text.length);
    for (let i = 0; i < text.length; i++) bytes.push(text.charCodeAt(i) & 0xff);
  };
  for (let i = 0; i < fields.length; i += 2) {
    bytes.push(0);
    string(fields[i]);
    string(fields[i + 1]);
  }
  return Uint8Array.from(bytes);
}

function integer(bytes: number[], prefix: number, flags: number, value: number): void {
  const most = (1 << prefix) - 1;
  if (value < most) return void bytes.push(flags | value);
  bytes.push(flags | most);
  let rest = value - most;
  for (; rest >= 0x80; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest);
}
