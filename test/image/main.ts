// SPDX-License-Identifier: Apache-2.0
// `deno task test:image`: builds the Dockerfile with buildah, on a base that debootstrap makes, and tries what comes of it:
// it runs as a number, serves the demonstration, and says that it is healthy. Skipped where these programs are not.
// Where no registry can be reached, the image that builds has a Deno from PyPI (test/support/pypi_deno.ts).

import { assertEquals, assertStringIncludes } from "@std/assert";
import { denoFromPyPI, run } from "../support/pypi_deno.ts";
import { helpOf } from "../support/task_help.ts";
import { installed } from "../support/machine.ts";

helpOf(
  "Usage: deno task test:image\n\nBuilds the Dockerfile; needs root, buildah and debootstrap, else it is skipped.",
);

const ROOT = new URL("../../", import.meta.url).pathname;
const env = { BUILDAH_ISOLATION: "chroot", STORAGE_DRIVER: "vfs" };
const buildah = (...args: string[]) => run("buildah", args, { env });

const missing = ["buildah", "debootstrap", "python3"].filter((program) => !installed(program));
if (missing.length > 0 || Deno.uid() !== 0) {
  console.log(`skipped: ${missing.length > 0 ? `${missing.join(", ")} not here` : "it needs root"}`);
  Deno.exit(0);
}

const folder = await Deno.makeTempDir();
const images: string[] = [];
try {
  await run("debootstrap", ["--variant=minbase", "--include=ca-certificates", "bookworm", `${folder}/base`]);
  // The machine's certificates, as what is downloaded may come through a proxy of its own.
  await run("cp", ["-L", "/etc/ssl/certs/ca-certificates.crt", `${folder}/base/etc/ssl/certs/ca-certificates.crt`]);
  const base = await image("aigw-test-base", `${folder}/base`, "/");
  const { deno, stub } = await denoFromPyPI(folder);
  const programs = `${folder}/programs`;
  await Deno.mkdir(programs);
  const real = (await Deno.readTextFile(deno).catch(() => "")).startsWith("#!") ? await programOf(deno) : deno;
  await run("cp", ["-L", real, `${programs}/deno`]);
  await run("cp", [stub, `${programs}/denort`]);
  const builder = await image("aigw-test-deno", programs, "/usr/local/bin/", base, [
    "DENORT_BIN=/usr/local/bin/denort",
    "DENO_TLS_CA_STORE=system",
  ]);
  for (const name of ["src", "wasm", "config", "deno.json", "deno.lock", "Dockerfile"]) {
    await run("cp", ["-r", `${ROOT}${name}`, folder]);
  }
  const names = ["--build-arg", `DENO_IMAGE=${builder}`, "--build-arg", `BASE_IMAGE=${base}`];
  await buildah("build", ...names, "--format", "docker", "--network", "host", "-t", "aigw-test", folder);
  images.push("aigw-test");
  const { Docker: { config } } = JSON.parse(await buildah("inspect", "--type", "image", "aigw-test"));
  assertEquals([config.User, config.Entrypoint, config.WorkingDir], ["10001:10001", ["aigw"], "/etc/aigw"]);
  assertEquals(config.Healthcheck.Test, ["CMD", "aigw", "health"]);
  const container = (await buildah("from", "aigw-test")).trim();
  try {
    const listen = ["--listen", "127.0.0.1:18000", "--admin", "127.0.0.1:18001", "--center", "127.0.0.1:18002"];
    const script = `aigw demo ${listen.join(" ")} >/dev/null & pid=$!; for i in $(seq 100); do ` +
      "if aigw health http://127.0.0.1:18000; then break; fi; sleep 0.1; done; id -u; kill $pid; wait $pid; echo ended $?";
    const said = await buildah("run", "--network", "host", container, "--", "sh", "-c", script);
    assertStringIncludes(said, "ready\n10001\n");
    assertStringIncludes(said, "ended 0");
  } finally {
    await buildah("rm", container);
  }
  console.log("the image serves as user 10001 and is healthy");
} finally {
  for (const name of images.reverse()) await buildah("rmi", "--force", name).catch(() => {});
  await Deno.remove(folder, { recursive: true });
}

/** An image of a folder, on another one. */
async function image(
  name: string,
  from: string,
  to: string,
  on = "scratch",
  variables: string[] = [],
): Promise<string> {
  const container = (await buildah("from", on)).trim();
  await buildah("copy", "--quiet", container, from, to);
  for (const variable of variables) await buildah("config", "--env", variable, container);
  await buildah("commit", "--quiet", "--rm", container, name);
  images.push(name);
  return `localhost/${name}`;
}

/** The program behind PyPI's script. */
async function programOf(script: string): Promise<string> {
  const find = "import deno; print(deno.find_deno_bin())";
  return (await run(`${script.slice(0, script.lastIndexOf("/"))}/python`, ["-c", find])).trim();
}
