// SPDX-License-Identifier: Apache-2.0
// What workers hand to the control plane, and which endpoints have stored responses. A ring has one writer (the worker)
// and one reader (the control plane): each publishes its own count with one atomic store.

/** The head of a worker's save ring; a ring of words follows. */
@unmanaged
export class SaveRing {
  written: u32; // words so far
  read: u32;
  // Of the area, bumped when its worker is given up: what the old one still does with requests counts for nothing.
  epoch: u32;
  grants: u32; // to this worker's requests so far; a futex word
  walking: u32; // cluster + 1 whose list of groups this worker may be reading, 0 for none
}

export const RING_WRITTEN: u32 = offsetof<SaveRing>("written");
export const RING_READ: u32 = offsetof<SaveRing>("read");
export const RING_EPOCH: u32 = offsetof<SaveRing>("epoch");
export const RING_GRANTS: u32 = offsetof<SaveRing>("grants");
export const RING_WALKING: u32 = offsetof<SaveRing>("walking");
export const RING_HEADER_BYTES: u32 = 64;

/**
 * Stored responses: buckets of 8 entries of u64 key (0 for none) and u64 value: u32 endpoint row (low), u32 its generation
 * (high).
 */
export const RESPONSE_BUCKET_ENTRIES: u32 = 8;
export const RESPONSE_BYTES: u32 = 16;

/** Samples of a worker for the trainer: u32 samples written and read so far, then a ring of SAMPLES of SAMPLE_FIELDS f64. */
export const SAMPLES: u32 = 1024;
export const SAMPLE_FIELDS: u32 = 9;
export const SAMPLE_HEADER_BYTES: u32 = 64;
export const SAMPLE_RING_BYTES: u32 = SAMPLE_HEADER_BYTES + SAMPLES * SAMPLE_FIELDS * 8;
