// SPDX-License-Identifier: Apache-2.0
// Messages of Envoy's external processing (envoy.service.ext_proc.v3), read and written field by field: only what is used,
// and without an object for each of them. Numbers are those of the protocol's fields.

import protobuf from "protobufjs";
import { latin1 } from "../../base/latin1.ts";

const { Reader, Writer } = protobuf;
type Reader = protobuf.Reader;
type Writer = protobuf.Writer;

/** Which half of an exchange a message is of. */
export type Half = "request" | "response";

/** How Envoy sends a body: ProcessingMode.BodySendMode. */
export const BodyMode = { none: 0, streamed: 1, buffered: 2, bufferedPartial: 3, fullDuplex: 4 } as const;

/** A ProcessingRequest. */
export interface Received {
  readonly half: Half;
  readonly part: "headers" | "body" | "trailers";
  /** Of headers: names and values in turn. */
  readonly fields: readonly string[];
  /** Of a body; it is a part of the message that was decoded. */
  readonly bytes: Uint8Array;
  /** Whether nothing of this half follows. */
  readonly ends: boolean;
  /** How bodies are sent, as Envoy's first message says; undefined where it does not. */
  readonly modes: { readonly request: number; readonly response: number } | undefined;
  /** HOST:PORTs of the endpoints that will do; undefined for all. */
  readonly subset: readonly string[] | undefined;
  /** HOST:PORT that answered. */
  readonly servedBy: string | undefined;
}

/** The name of the chosen endpoint, as a header field and in the dynamic metadata. */
export const DESTINATION = "x-gateway-destination-endpoint";
const NAMESPACE = "envoy.lb";
const SUBSET_NAMESPACE = "envoy.lb.subset_hint";
const SUBSET = "x-gateway-destination-endpoint-subset";
const SERVED = "x-gateway-destination-endpoint-served";

const NOTHING: readonly string[] = [];
const EMPTY = new Uint8Array(0);
/** ProcessingRequest's fields 2 to 7. */
const PARTS = [
  ["request", "headers"],
  ["response", "headers"],
  ["request", "body"],
  ["response", "body"],
  ["request", "trailers"],
  ["response", "trailers"],
] as const;

/** Throws Error for bytes that are no such message. */
export function decode(bytes: Uint8Array): Received {
  const reader = Reader.create(bytes);
  let [half, part]: (typeof PARTS)[number] = PARTS[0];
  let fields = NOTHING;
  let body: Uint8Array = EMPTY;
  let ends = false;
  let modes: Received["modes"];
  let subset: Received["subset"];
  let servedBy: string | undefined;
  let known = false;
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    const field = tag >>> 3;
    if (field >= 2 && field <= 7) {
      known = true;
      [half, part] = PARTS[field - 2];
      const end = reader.uint32() + reader.pos;
      while (reader.pos < end) {
        const inner = reader.uint32();
        if (inner >>> 3 === 1) {
          if (part === "body") body = reader.bytes();
          else fields = headerMap(reader);
        } else if (inner === END_OF_HEADERS && part === "headers") ends = reader.bool();
        else if (inner === END_OF_BODY && part === "body") ends = reader.bool();
        else reader.skipType(inner & 7);
      }
    } else if (field === 8) {
      for (const [name, struct] of metadata(reader)) {
        if (name === SUBSET_NAMESPACE) subset = texts(struct, SUBSET) ?? subset;
        else if (name === NAMESPACE) servedBy = texts(struct, SERVED)?.[0] ?? servedBy;
      }
    } else if (field === 11) modes = bodyModes(reader);
    else reader.skipType(tag & 7);
  }
  if (!known) throw new Error("a message of external processing without a request in it");
  return { half, part, fields, bytes: body, ends: ends || part === "trailers", modes, subset, servedBy };
}

const END_OF_HEADERS = 3 << 3;
const END_OF_BODY = 2 << 3;

// Field values are bytes, and so are the characters of our strings of them.
const text = (bytes: Uint8Array): string => latin1(bytes, 0, bytes.length);

// HeaderMap { repeated HeaderValue headers = 1 }, HeaderValue { key = 1, value = 2, raw_value = 3 }
function headerMap(reader: Reader): string[] {
  const fields: string[] = [];
  const end = reader.uint32() + reader.pos;
  while (reader.pos < end) {
    const tag = reader.uint32();
    if (tag >>> 3 !== 1) {
      reader.skipType(tag & 7);
      continue;
    }
    let [key, value] = ["", ""];
    const valueEnd = reader.uint32() + reader.pos;
    while (reader.pos < valueEnd) {
      const inner = reader.uint32();
      if (inner >>> 3 === 1) key = reader.string();
      else if (inner >>> 3 === 2) value = reader.string() || value;
      else if (inner >>> 3 === 3) value = text(reader.bytes()) || value;
      else reader.skipType(inner & 7);
    }
    fields.push(key, value);
  }
  return fields;
}

// ProtocolConfiguration { request_body_mode = 1, response_body_mode = 2 }
function bodyModes(reader: Reader): { request: number; response: number } {
  const modes = { request: BodyMode.none as number, response: BodyMode.none as number };
  const end = reader.uint32() + reader.pos;
  while (reader.pos < end) {
    const tag = reader.uint32();
    if (tag >>> 3 === 1) modes.request = reader.uint32();
    else if (tag >>> 3 === 2) modes.response = reader.uint32();
    else reader.skipType(tag & 7);
  }
  return modes;
}

// Metadata { map<string, Struct> filter_metadata = 1 }: each namespace and its Struct.
function* metadata(reader: Reader): Generator<[string, Uint8Array]> {
  for (const entry of messages(reader, 1)) yield keyed(entry);
}

// Messages of one field of the message that comes next.
function messages(reader: Reader, field: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  const end = reader.uint32() + reader.pos;
  while (reader.pos < end) {
    const tag = reader.uint32();
    if (tag >>> 3 === field) found.push(reader.bytes());
    else reader.skipType(tag & 7);
  }
  return found;
}

// An entry of a map: its key, and its value's bytes.
function keyed(bytes: Uint8Array): [string, Uint8Array] {
  const reader = Reader.create(bytes);
  let [key, value]: [string, Uint8Array] = ["", EMPTY];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === 1) key = reader.string();
    else if (tag >>> 3 === 2) value = reader.bytes();
    else reader.skipType(tag & 7);
  }
  return [key, value];
}

// The texts of a Struct's field: of a list, or between commas; undefined when it has no such field.
function texts(struct: Uint8Array, name: string): string[] | undefined {
  const reader = Reader.create(struct);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 !== 1) {
      reader.skipType(tag & 7);
      continue;
    }
    const [key, value] = keyed(reader.bytes());
    if (key === name) return valueTexts(value).flatMap((text) => text.split(",")).filter((text) => text !== "");
  }
}

// Value { string_value = 3, list_value = 6 }, ListValue { repeated Value values = 1 }
function valueTexts(value: Uint8Array): string[] {
  const reader = Reader.create(value);
  const found: string[] = [];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === 3) found.push(reader.string().trim());
    else if (tag >>> 3 === 6) { for (const one of messages(reader, 1)) found.push(...valueTexts(one)); }
    else reader.skipType(tag & 7);
  }
  return found;
}

// --- Answers.

/** What is changed of a head. */
export interface Mutation {
  /** Names and values in turn, in place of those that are there. */
  readonly set: readonly string[];
  readonly remove: readonly string[];
}

/** What becomes of a body: it stays; another one in its place; or a piece of a stream of our own. */
export type BodyChange =
  | undefined
  | { readonly kind: "replace"; readonly bytes: Uint8Array }
  | { readonly kind: "piece"; readonly bytes: Uint8Array; readonly ends: boolean };

/** ProcessingResponse's fields of answers. */
const ANSWERS = {
  request: { headers: 1, body: 3, trailers: 5 },
  response: { headers: 2, body: 4, trailers: 6 },
} as const;

/** The answer to headers or a piece of a body. @param destination HOST:PORTs with commas between them, told as metadata. */
export function answer(
  half: Half,
  part: "headers" | "body",
  mutation?: Mutation,
  change?: BodyChange,
  destination?: string,
): Uint8Array {
  const writer = Writer.create();
  // HeadersResponse, BodyResponse { CommonResponse response = 1 }
  writer.uint32(ANSWERS[half][part] << 3 | 2).fork();
  if (mutation !== undefined || change !== undefined) {
    writer.uint32(10).fork();
    if (mutation !== undefined) writeMutation(writer.uint32(18).fork(), mutation).ldelim();
    if (change !== undefined) writeChange(writer.uint32(26).fork(), change).ldelim();
    if (destination !== undefined) writer.uint32(40).bool(true); // clear_route_cache: by the new fields
    writer.ldelim();
  }
  writer.ldelim();
  if (destination !== undefined) writeDestination(writer.uint32(66).fork(), destination).ldelim();
  return writer.finish();
}

/** The answer to trailers: they stay as they are. */
export function answerTrailers(half: Half): Uint8Array {
  return Writer.create().uint32(ANSWERS[half].trailers << 3 | 2).fork().ldelim().finish();
}

/** An answer in place of the engine's: ImmediateResponse { status = 1, headers = 2, body = 3, details = 5 }. */
export function immediate(
  status: number,
  fields: readonly string[],
  body: Uint8Array | string | null,
  details: string,
): Uint8Array {
  const writer = Writer.create();
  writer.uint32(7 << 3 | 2).fork();
  writer.uint32(10).fork().uint32(8).uint32(status).ldelim();
  writeMutation(writer.uint32(18).fork(), { set: fields, remove: NOTHING }, APPEND).ldelim();
  if (typeof body === "string") writer.uint32(26).string(body);
  else if (body !== null) writer.uint32(26).bytes(body);
  writer.uint32(42).string(details);
  return writer.ldelim().finish();
}

/** HeaderValueOption.append_action: one field more, or in place of those of its name. */
const APPEND = 0;
const OVERWRITE = 2;

// HeaderMutation { set_headers = 1, remove_headers = 2 }, HeaderValueOption { header = 1, append_action = 3 }
function writeMutation(writer: Writer, { set, remove }: Mutation, action = OVERWRITE): Writer {
  for (let i = 0; i < set.length; i += 2) {
    writer.uint32(10).fork();
    writer.uint32(10).fork().uint32(10).string(set[i]);
    writeValue(writer, set[i + 1]).ldelim();
    if (action !== APPEND) writer.uint32(24).uint32(action);
    writer.ldelim();
  }
  for (const name of remove) writer.uint32(18).string(name);
  return writer;
}

// raw_value = 3: one byte a character.
function writeValue(writer: Writer, value: string): Writer {
  const bytes = new Uint8Array(value.length);
  for (let i = 0; i < value.length; i++) bytes[i] = value.charCodeAt(i);
  return writer.uint32(26).bytes(bytes);
}

// BodyMutation { body = 1, clear_body = 2, streamed_response = 3 }
function writeChange(writer: Writer, change: NonNullable<BodyChange>): Writer {
  if (change.kind === "replace") {
    return change.bytes.length > 0 ? writer.uint32(10).bytes(change.bytes) : writer.uint32(16).bool(true);
  }
  writer.uint32(26).fork();
  if (change.bytes.length > 0) writer.uint32(10).bytes(change.bytes);
  if (change.ends) writer.uint32(16).bool(true);
  return writer.ldelim();
}

// Struct { "envoy.lb": Struct { DESTINATION: destination } }
function writeDestination(writer: Writer, destination: string): Writer {
  const entry = (name: string, value: (writer: Writer) => void): void => {
    writer.uint32(10).fork().uint32(10).string(name);
    writer.uint32(18).fork();
    value(writer);
    writer.ldelim().ldelim();
  };
  entry(NAMESPACE, () => {
    writer.uint32(42).fork(); // struct_value = 5
    entry(DESTINATION, () => writer.uint32(26).string(destination));
    writer.ldelim();
  });
  return writer;
}
