// SPDX-License-Identifier: Apache-2.0
import { assertEquals, assertThrows } from "@std/assert";
import { GatewayError } from "../../src/base/errors.ts";
import { formField, FormSearch } from "../../src/openai/form.ts";
import { decodeForm } from "../../src/openai/request.ts";
import { outgoingBody } from "../../src/engines/openai_body.ts";
import { Random, seed } from "../support/seed.ts";

const decoder = new TextDecoder();

/** A form as the runtime writes it. */
async function formOf(fields: [string, string | Blob][]): Promise<{ bytes: Uint8Array<ArrayBuffer>; type: string }> {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  const request = new Request("http://x/", { method: "POST", body: form });
  return { type: request.headers.get("content-type")!, bytes: await request.bytes() };
}

Deno.test("formField: the field among files of any bytes, wherever it stands", async () => {
  const random = new Random(seed);
  for (let i = 0; i < 200; i++) {
    const file = new Uint8Array(random.below(3_000)).map(() => random.pick([13, 10, 45, random.below(256)]));
    const model = `model-${random.below(1_000)} é`;
    const fields: [string, string | Blob][] = [["file", new Blob([file])], ["language", "en"], ["models", "no"]];
    fields.splice(random.below(4), 0, ["model", model]);
    const { bytes, type } = await formOf(fields);
    const found = formField(bytes, type, "model")!;
    assertEquals([found.value, decoder.decode(bytes.subarray(found.start, found.end))], [model, model]);
    assertEquals(formField(bytes, type, "other"), undefined);
    // The name that goes to the engine takes its place, and nothing else changes.
    const { body } = outgoingBody(decodeForm(formField(bytes, type, "model")), bytes, "target", true);
    const form = await new Response(body, { headers: { "content-type": type } }).formData();
    assertEquals([form.get("model"), form.get("language")], ["target", "en"]);
    assertEquals(await (form.get("file") as File).bytes(), file);
    assertEquals(outgoingBody(decodeForm(formField(bytes, type, "model")), bytes, "", true), { body: bytes });
  }
});

Deno.test("formField: what is no form, or is cut anywhere, is refused or lacks the field; nothing else is thrown", async () => {
  const { bytes, type } = await formOf([["file", new Blob(["abc"])], ["model", "m"]]);
  for (let at = 0; at < bytes.length; at++) {
    try {
      const found = formField(bytes.subarray(0, at), type, "model");
      assertEquals(found?.value ?? "m", "m");
    } catch (error) {
      if (!(error instanceof GatewayError && error.code === "invalid_request")) throw error;
    }
  }
  for (const other of [null, "application/json", "multipart/form-data", "multipart/form-data; boundary="]) {
    assertThrows(() => formField(bytes, other, "model"), GatewayError, "boundary");
  }
  assertThrows(() => formField(bytes, "multipart/form-data; boundary=other", "model"), GatewayError, "boundary");
});

Deno.test("FormSearch finds in a form that arrives in pieces what it finds in the whole, as early as it can", async () => {
  const random = new Random(seed);
  for (let i = 0; i < 300; i++) {
    const file = new Uint8Array(random.below(600)).map(() => random.pick([13, 10, 45, random.below(256)]));
    const fields: [string, string | Blob][] = [["file", new Blob([file])], ["language", "en"]];
    if (i % 4 > 0) fields.splice(random.below(3), 0, ["model", `model-${i}`]);
    const { bytes, type } = await formOf(fields);
    const whole = formField(bytes, type, "model");
    const search = new FormSearch(type, "model");
    let found: ReturnType<FormSearch["look"]> = "more";
    let at = 0;
    while (found === "more" && at < bytes.length) {
      at += 1 + (i % 2 === 0 ? 0 : random.below(300));
      found = search.look(bytes.subarray(0, at));
    }
    assertEquals(found, whole);
    const boundary = type.slice(type.indexOf("boundary=") + 9);
    if (i % 2 === 0 && whole) assertEquals(at, whole.end + 2 + `--${boundary}`.length + 1);
  }
});

Deno.test("formField: quoted boundaries and bare names; a file of that name is none", () => {
  const form = (disposition: string) =>
    new TextEncoder().encode(`--a b\r\nContent-Disposition: form-data; ${disposition}\r\n\r\nm\r\n--a b--\r\n`);
  const type = 'multipart/form-data; charset=utf-8; boundary="a b"';
  assertEquals(formField(form("name=model"), type, "model")?.value, "m");
  assertEquals(formField(form('name="model"; filename="x"'), type, "model"), undefined);
});
