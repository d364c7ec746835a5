// SPDX-License-Identifier: Apache-2.0
// What workers hand to the control plane, and the pins of stored responses.

// Save ring of one worker: u32 words written and read so far, the epoch of the block (bumped when its worker is given
// up: what the old one still does with requests counts for nothing), then a ring of words. One writer (the worker), one reader
// (the control plane): each publishes its own count with one atomic store.
export const RING_HEADER_BYTES: u32 = 64;
export const G_EPOCH: u32 = 8;
export const G_GRANTS: u32 = 12; // grants to this worker's requests so far; a futex word

// Pins: buckets of 8 entries of u64 key (0 for none) and u64 value: u32 endpoint row (low), u32 its generation (high).
export const PIN_BUCKET_ENTRIES: u32 = 8;
export const PIN_BYTES: u32 = 16;

// Samples of one worker for the trainer: u32 samples written and read so far, then a ring of SAMPLES of SAMPLE_FIELDS f64.
// One writer (the worker), one reader (the control plane), as the save ring.
export const SAMPLES: u32 = 1024;
export const SAMPLE_FIELDS: u32 = 9;
export const SAMPLE_RING_BYTES: u32 = 64 + SAMPLES * SAMPLE_FIELDS * 8;
