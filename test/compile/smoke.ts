// SPDX-License-Identifier: Apache-2.0
// `deno task compile:smoke`: builds the program and tries it as a user without rights in an empty folder: a request and a
// stream are answered, the page is inside, a changed configuration is read, what is under way is finished.

import { denoFromPyPI, run, VERSION } from "../support/pypi_deno.ts";
import { helpOf } from "../support/task_help.ts";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { freePort } from "../support/machine.ts";
import { tinyTokenizer } from "../support/tiny_tokenizer.ts";
import { until } from "../support/until.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

/** Without rights, where we have any. */
function unprivileged(program: string, args: string[]): [string, string[]] {
  if (Deno.uid() !== 0) return [program, args];
  return ["setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", program, ...args]];
}

async function tryProgram(program: string): Promise<void> {
  const folder = await Deno.makeTempDir();
  await Deno.chmod(folder, 0o755);
  const [data, admin, center, engine] = [freePort(), freePort(), freePort(), freePort()];
  const config = (model: string) =>
    `listen: 127.0.0.1:${data}\nworkers: 2\nadmin: {listen: "127.0.0.1:${admin}"}\n` +
    `metadata_center: {listen: "127.0.0.1:${center}"}\nreload: {watch: false}\n` +
    `clusters: [{name: c, endpoints: [{address: 127.0.0.1, port: ${engine}}]}]\n` +
    `model_mapping_rule: {${model}: {rules: [{backend: vllm, cluster: c, target_model: first}]}}\n` +
    `tokenizers: {${model}: {file: tokenizer.json}}\n`;
  const { tokenizer, config: tokenizerConfig } = tinyTokenizer();
  await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(tokenizer));
  await Deno.writeTextFile(`${folder}/tokenizer_config.json`, JSON.stringify(tokenizerConfig));
  await Deno.writeTextFile(`${folder}/aigw.yaml`, config("first"));
  const [name, args] = unprivileged(program, ["serve", "--config", "aigw.yaml", "--mock-engines", "1"]);
  const child = new Deno.Command(name, { args, cwd: folder, clearEnv: true, stdout: "piped", stderr: "inherit" })
    .spawn();
  try {
    await tryServing(child, { folder, data, admin, changed: config("second") });
  } finally {
    try {
      child.kill("SIGKILL");
    } catch {
      // it has ended as it should
    }
    await child.status;
    await Deno.remove(folder, { recursive: true });
  }
}

interface Tried {
  readonly folder: string;
  readonly data: number;
  readonly admin: number;
  /** Another configuration, with the model "second". */
  readonly changed: string;
}

async function tryServing(child: Deno.ChildProcess, { folder, data, admin, changed }: Tried): Promise<void> {
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!said.includes("\n\n")) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`it ended before it served: ${said}`);
    said += value;
  }
  const rest = (async () => {
    for (let next = await reader.read(); !next.done; next = await reader.read()) said += next.value;
  })();
  const ask = (model: string, more: Record<string, unknown> = {}) =>
    fetch(`http://127.0.0.1:${data}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }], ...more }),
    });
  const answer = await ask("first");
  assertEquals(answer.status, 200);
  await answer.body?.cancel();
  await until(async () => {
    const body = JSON.stringify({ model: "first", messages: [{ role: "user", content: "Hello" }] });
    const explained = await (await fetch(`http://127.0.0.1:${admin}/explain`, { method: "POST", body })).json();
    return explained.prompt.tokens > 0;
  }, "prompts are tokenised in a thread of the program");
  const page = await fetch(`http://127.0.0.1:${admin}/`, { headers: { accept: "text/html" } });
  assertStringIncludes(await page.text(), "<title>AIGW</title>");
  assertEquals((await fetch(`http://127.0.0.1:${admin}/page/uplot.js`)).status, 200);

  await Deno.writeTextFile(`${folder}/aigw.yaml`, changed);
  child.kill("SIGHUP");
  for (let tries = 0;; tries++) {
    const { status, body } = await ask("second");
    await body?.cancel();
    if (status === 200) break;
    assert(tries < 100, `the changed configuration is not in force: ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const stream = await ask("second", { stream: true, max_tokens: 40 });
  child.kill("SIGTERM");
  assert((await stream.text()).endsWith("data: [DONE]\n\n"), "what is under way is finished");
  const { code } = await child.status;
  await rest;
  assertEquals([code, said.includes("nothing was lost")], [0, true], said);
}

if (import.meta.main) {
  helpOf(
    "Usage: deno task compile:smoke\n\nBuilds the program and tries it; DENORT_BIN names a stub of this Deno's version.",
  );
  const folder = await Deno.makeTempDir();
  await Deno.chmod(folder, 0o755);
  try {
    let deno = Deno.execPath();
    const env: Record<string, string> = {};
    const named = Deno.env.get("DENORT_BIN");
    if (named === undefined) {
      try {
        const found = await denoFromPyPI(folder);
        deno = found.deno;
        Object.assign(env, { DENORT_BIN: found.stub, DENO_TLS_CA_STORE: "system" });
        console.log(`with Deno ${VERSION} from PyPI`);
      } catch (error) {
        console.log(`skipped: no stub of the runtime is to be had here: ${(error as Error).message.split("\n")[0]}`);
        Deno.exit(0);
      }
    }
    // In a copy: another version may write another lock file.
    for (const name of ["src", "wasm", "config", "deno.json"]) await run("cp", ["-r", `${ROOT}${name}`, folder]);
    await run(deno, ["run", "--allow-all", "config/release/compile.ts"], {
      cwd: folder,
      env: { ...env, DENO_DIR: `${folder}/deno` },
    });
    const { size } = await Deno.stat(`${folder}/dist/aigw`);
    console.log(`${(size / 1e6).toFixed(0)} MB`);
    await tryProgram(`${folder}/dist/aigw`);
    console.log("served, reloaded and drained as a user without rights");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
