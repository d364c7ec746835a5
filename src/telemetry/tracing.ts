// SPDX-License-Identifier: Apache-2.0
// One span an inference request through the OpenTelemetry API, from its arrival to the true end of its stream, and the
// histograms that the conventions for generative AI know of servers (gen_ai.*, as of semantic conventions 1.41). The
// exporter is Deno's own and runs when OTEL_DENO=true; otherwise there is no tracing object and requests pay nothing.

import {
  type Attributes,
  type AttributeValue,
  type Context,
  context,
  type Histogram,
  metrics,
  propagation,
  type Span,
  SpanKind,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import { DURATION_BUCKETS, TOKEN_BUCKETS } from "./cells.ts";

/** Whole numbers are told as such: the runtime takes any number for a floating one. */
export type SpanAttributes = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

export interface SpanEvent {
  readonly name: string;
  /** ms since the epoch */
  readonly time: number;
}

/** How a request ended, as its span and the histograms have it. */
export interface EndedSpan {
  readonly name: string;
  readonly attributes: SpanAttributes;
  readonly events: readonly SpanEvent[];
  /** Why it failed, in a word; undefined when it did not. */
  readonly error: string | undefined;
  /** Labels of the histograms: few values each. */
  readonly labels: SpanAttributes;
  readonly seconds: number;
  readonly ttftSeconds: number | undefined;
  readonly tokenSeconds: number | undefined;
}

export interface RequestSpan {
  /** Lines of header fields with our context in place of the client's. */
  fields(lines: string): string;
  end(ended: EndedSpan): void;
}

export interface Tracing {
  /** Starts a span under the runtime's span of this request, or the caller's `traceparent`. */
  start(headers: { get(name: string): string | null }): RequestSpan;
}

/** Whether telemetry is exported. */
export function exportsTelemetry(environment: { get(name: string): string | undefined } = Deno.env): boolean {
  return environment.get("OTEL_DENO") === "true";
}

/** The tracing of this process; undefined when OTEL_DENO is not "true". */
export function openTracing(environment: { get(name: string): string | undefined } = Deno.env): Tracing | undefined {
  if (!exportsTelemetry(environment)) return undefined;
  const tracer = trace.getTracer("aigw");
  const histograms = openHistograms();
  return {
    start(headers) {
      const active = context.active();
      // The direct front has no span of the runtime's around it.
      const parent = trace.getSpan(active) ? active : propagation.extract(active, headers, {
        get: (from, key) => from.get(key) ?? undefined,
        keys: () => [],
      });
      const span = tracer.startSpan("inference", { kind: SpanKind.CLIENT }, parent);
      return new OpenSpan(span, trace.setSpan(parent, span), histograms);
    },
  };
}

interface Histograms {
  readonly duration: Histogram;
  readonly ttft: Histogram;
  readonly tokenTime: Histogram;
}

function openHistograms(): Histograms {
  const meter = metrics.getMeter("aigw");
  const histogram = (name: string, description: string, bounds: readonly number[]) =>
    meter.createHistogram(name, { description, unit: "s", advice: { explicitBucketBoundaries: [...bounds] } });
  return {
    duration: histogram(
      "gen_ai.server.request.duration",
      "From the request to the end of its answer",
      DURATION_BUCKETS,
    ),
    ttft: histogram("gen_ai.server.time_to_first_token", "From the request to its first token", DURATION_BUCKETS),
    tokenTime: histogram(
      "gen_ai.server.time_per_output_token",
      "Mean time between the tokens of a stream",
      TOKEN_BUCKETS,
    ),
  };
}

const TRACE_FIELDS = /^(?:traceparent|tracestate): .*\r\n/gm;

class OpenSpan implements RequestSpan {
  constructor(readonly span: Span, readonly own: Context, readonly histograms: Histograms) {}

  fields(lines: string): string {
    const carrier: Record<string, string> = {};
    propagation.inject(this.own, carrier);
    const ours = Object.entries(carrier).map(([name, value]) => `${name}: ${value}\r\n`);
    return ours.length === 0 ? lines : lines.replaceAll(TRACE_FIELDS, "") + ours.join("");
  }

  end({ name, attributes, events, error, labels, seconds, ttftSeconds, tokenSeconds }: EndedSpan): void {
    const { span, histograms } = this;
    span.updateName(name);
    span.setAttributes(exported(attributes));
    for (const { name, time } of events) span.addEvent(name, {}, time);
    if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error });
    span.end();
    const own = exported(labels);
    histograms.duration.record(seconds, own);
    if (ttftSeconds !== undefined) histograms.ttft.record(ttftSeconds, own);
    if (tokenSeconds !== undefined) histograms.tokenTime.record(tokenSeconds, own);
  }
}

function exported(attributes: SpanAttributes): Attributes {
  const all: Attributes = {};
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined) continue;
    all[name] = (Number.isSafeInteger(value) ? BigInt(value as number) : value) as AttributeValue;
  }
  return all;
}
