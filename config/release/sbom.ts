// SPDX-License-Identifier: Apache-2.0
// `deno task sbom`: what the gateway is made of, as CycloneDX 1.6: its packages out of deno.lock, with their digests.

const root = new URL("../../", import.meta.url);
const { version } = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
const { npm = {} } = JSON.parse(await Deno.readTextFile(new URL("deno.lock", root))) as {
  npm?: Record<string, { integrity: string; dependencies?: string[] }>;
};

/** NAME@VERSION, without the peers that it was resolved with. */
function parts(key: string): [name: string, version: string] {
  const bare = key.split("_")[0];
  const at = bare.lastIndexOf("@");
  return [bare.slice(0, at), bare.slice(at + 1)];
}

const purl = (name: string, version: string) => `pkg:npm/${name.replace("@", "%40")}@${version}`;
const hex = (base64: string) =>
  [...atob(base64)].map((sign) => sign.charCodeAt(0).toString(16).padStart(2, "0")).join("");

const components = Object.entries(npm).map(([key, { integrity }]) => {
  const [name, version] = parts(key);
  const [, digest] = integrity.split("-");
  return {
    type: "library",
    "bom-ref": purl(name, version),
    name,
    version,
    purl: purl(name, version),
    hashes: [{ alg: "SHA-512", content: hex(digest) }],
  };
});

console.log(JSON.stringify(
  {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      component: { type: "application", name: "aigw", version, licenses: [{ license: { id: "Apache-2.0" } }] },
    },
    components: [
      {
        type: "platform",
        name: "deno",
        version: Deno.version.deno,
        purl: `pkg:github/denoland/deno@v${Deno.version.deno}`,
      },
      ...components,
    ],
  },
  null,
  2,
));
