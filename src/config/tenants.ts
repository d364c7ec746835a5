// SPDX-License-Identifier: Apache-2.0
// Tenants: who they are, what they may use, and which header fields say so where another gateway has checked them.

import { z } from "zod";

/** Priorities by name; the greater one goes first. */
export const PRIORITIES = { critical: 100, standard: 0, batch: -100 } as const;
export const MAX_PRIORITY = 1_000;

const integer = z.int().min(-MAX_PRIORITY).max(MAX_PRIORITY);
export const prioritySchema = z.union([z.enum(["critical", "standard", "batch"]), integer], {
  error: `expected critical, standard, batch or a whole number from -${MAX_PRIORITY} to ${MAX_PRIORITY}`,
});
export type Priority = z.infer<typeof prioritySchema>;

/** Most of a limit a minute: 28 bits. */
const MAX_A_MINUTE = 200_000_000;
const aMinute = z.int().min(1).max(MAX_A_MINUTE).optional();

export const tenantLimitsSchema = z.strictObject({
  requests_per_minute: aMinute,
  input_tokens_per_minute: aMinute,
  output_tokens_per_minute: aMinute,
  concurrency: z.int().min(1).max(10_000_000).optional().describe("Requests under way at once"),
  queued: z.int().min(1).max(10_000_000).optional().describe("Requests that wait for an endpoint at once"),
}).prefault({});

const shared = {
  priority: prioritySchema.default("standard"),
  weight: z.number().min(0.001).max(1_000_000).default(1)
    .describe("Share of the tokens served, among tenants of one priority that want more than there is"),
  models: z.array(z.string().min(1)).min(1).optional().describe("Models that it may use; all without this"),
  limits: tenantLimitsSchema,
};

export const tenantSchema = z.strictObject({
  name: z.string().regex(/^[\w.@:-]{1,64}$/, { error: "expected 1 to 64 letters, digits, or _ . @ : -" }),
  keys_sha256: z.array(z.string().regex(/^[0-9a-fA-F]{64}$/, { error: "expected a SHA-256 as 64 hexadecimal digits" }))
    .default([]).describe("SHA-256 of each of its API keys"),
  ...shared,
});
export type TenantConfig = z.infer<typeof tenantSchema>;

export const tenancySchema = z.strictObject({
  anonymous: z.strictObject(shared).prefault({})
    .describe("Everybody where no tenant has keys, and trusted tenants that are not configured"),
  trust_headers: z.boolean().default(false)
    .describe("Whether clients may say who they are: only behind a gateway that has checked them"),
  tenant_headers: z.array(z.string().min(1)).default([
    "x-aigw-tenant",
    "x-gateway-inference-fairness-id",
    "x-llm-d-inference-fairness-id",
  ])
    .describe("Fields that name the tenant, the first one found"),
  priority_headers: z.array(z.string().min(1)).default([
    "x-aigw-priority",
    "x-gateway-inference-objective",
    "x-llm-d-inference-objective",
  ])
    .describe("Fields that lower a request's priority below its tenant's"),
  objectives: z.record(z.string().min(1), prioritySchema).default({})
    .describe("Further names of priorities, as those fields use them"),
}).prefault({});

/** A priority as a number. */
export function priorityNumber(priority: Priority): number {
  return typeof priority === "number" ? priority : PRIORITIES[priority];
}
