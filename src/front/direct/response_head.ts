// SPDX-License-Identifier: Apache-2.0
// The head of an answer, as text of one byte a character.

import { STATUS_TEXT } from "@std/http/status";
import type { HttpResponse } from "../http/exchange.ts";

/** How the body of an answer is framed. */
export type AnswerFraming = "none" | "length" | "chunked" | "close";

const REASONS: Readonly<Record<number, string | undefined>> = STATUS_TEXT;

/**
 * The head of an answer.
 * @param length Bytes of the body where its fields do not tell; undefined for none.
 * @param connection What is said of the connection; undefined for nothing.
 */
export function responseHead(
  answer: HttpResponse,
  framing: AnswerFraming,
  length: number | undefined,
  connection: "close" | "keep-alive" | undefined,
): string {
  const { status, fields } = answer;
  let dated = false;
  let head = `HTTP/1.1 ${status} ${REASONS[status] ?? ""}\r\n`;
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i];
    if (name === "connection" || (name === "content-length" && framing !== "length" && framing !== "none")) continue;
    if (name === "date") dated = true;
    head += `${name}: ${fields[i + 1]}\r\n`;
  }
  if (framing === "chunked") head += "transfer-encoding: chunked\r\n";
  else if (length !== undefined) head += `content-length: ${length}\r\n`;
  if (connection !== undefined) head += `connection: ${connection}\r\n`;
  return dated ? `${head}\r\n` : `${head}date: ${date()}\r\n\r\n`;
}

let dateAt = 0;
let dateText = "";

// Made once a second.
function date(): string {
  const second = Math.floor(Date.now() / 1_000);
  if (second !== dateAt) {
    dateAt = second;
    dateText = new Date(second * 1_000).toUTCString();
  }
  return dateText;
}

/** Statuses whose answers have no body. */
export function hasNoBody(status: number): boolean {
  return status === 204 || status === 304;
}
