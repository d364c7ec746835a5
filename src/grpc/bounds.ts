// SPDX-License-Identifier: Apache-2.0
// What a peer may make a connection hold, and how long it may take.

export const TABLE_BYTES = 4_096;
/** Credit of a stream, and of the connection: what all streams together may send until it is renewed. */
export const STREAM_WINDOW = 1_048_576;
export const CONNECTION_WINDOW = 16_777_216;
/** Answers to frames that want nothing else, in one read of the connection; more is an attack. */
export const MAX_ANSWERS = 1_000;
/** Streams that were reset by us lately: what still comes of them is no fault. */
export const REMEMBERED = 1_024;
/** How long a client may take for its first bytes, and for the answer to the last ping. */
export const ANSWER_MS = 5_000;
/** What may wait to be written when more is read. */
export const UNREAD_BYTES = 4_194_304;
