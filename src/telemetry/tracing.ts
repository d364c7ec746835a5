// SPDX-License-Identifier: Apache-2.0
// One span a request through the OpenTelemetry API, from its arrival to the true end of its stream. The exporter is
// Deno's own and runs when OTEL_DENO=true; otherwise there is no tracing object and requests pay nothing.

import { context, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";

export interface RequestSpan {
  end(attributes: Record<string, string | number>, status: number): void;
}

export interface Tracing {
  /** Starts a span under the caller's `traceparent`, if it sent one. */
  start(headers: { get(name: string): string | null }): RequestSpan;
}

/** The tracing of this process; undefined when OTEL_DENO is not "true". */
export function openTracing(environment: { get(name: string): string | undefined } = Deno.env): Tracing | undefined {
  if (environment.get("OTEL_DENO") !== "true") return undefined;
  const tracer = trace.getTracer("aigw");
  return {
    start(headers) {
      const parent = propagation.extract(context.active(), headers, {
        get: (from, key) => from.get(key) ?? undefined,
        keys: () => [],
      });
      const span = tracer.startSpan("inference", { kind: SpanKind.SERVER }, parent);
      return {
        end(attributes, status) {
          span.setAttributes({ ...attributes, "http.response.status_code": status });
          if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
          span.end();
        },
      };
    },
  };
}
