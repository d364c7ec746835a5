// SPDX-License-Identifier: Apache-2.0
// A real Kubernetes API server over a real etcd: `kube-apiserver` and `etcd` of the PATH, or the programs that
// AIGW_KUBE_APISERVER and AIGW_ETCD name. No nodes, no controllers: objects are what the test makes them.

import { freePort, installed } from "../support/machine.ts";
import { until } from "../support/until.ts";

const [APISERVER, ETCD] = [
  Deno.env.get("AIGW_KUBE_APISERVER") ?? "kube-apiserver",
  Deno.env.get("AIGW_ETCD") ?? "etcd",
];
const missing = [APISERVER, ETCD, "openssl"].filter((program) => !installed(program));

/** Why there is no API server here; undefined when there is one. */
export const noKubernetes: string | undefined = missing.length === 0
  ? undefined
  : `skipped: there is no ${missing.join(", ")}; AIGW_KUBE_APISERVER and AIGW_ETCD may name them`;

const TOKEN = "secret";

export interface Kubernetes extends AsyncDisposable {
  /** What `kubernetes` of a configuration says of it. */
  readonly config: { api_server: string; token_file: string; ca_file: string };
  /** A kubeconfig file. */
  readonly kubeconfig: string;
  /** Asks for anything; throws Error with the server's words when it refuses. */
  ask(method: string, path: string, body?: unknown): Promise<Record<string, unknown>>;
  /** Ends the API server, and starts it again over what etcd has. */
  stop(): Promise<void>;
  start(): Promise<void>;
  /** Makes etcd forget what was before. */
  compact(): Promise<void>;
}

export async function startKubernetes(): Promise<Kubernetes> {
  const folder = await Deno.makeTempDir();
  const [port, clients, peers] = [freePort(), freePort(), freePort()];
  const [client, peer] = [`http://127.0.0.1:${clients}`, `http://127.0.0.1:${peers}`];
  const run = (program: string, args: string[]) =>
    new Deno.Command(program, { args, stdin: "null", stdout: "null", stderr: "null" }).spawn();
  await new Deno.Command("openssl", { args: ["genrsa", "-out", `${folder}/sa.key`, "2048"], stderr: "null" }).output();
  await Deno.writeTextFile(`${folder}/tokens.csv`, `${TOKEN},admin,admin,system:masters\n`);
  await Deno.writeTextFile(`${folder}/token`, TOKEN);
  const etcd = run(ETCD, [
    ...["--data-dir", `${folder}/etcd`, "--listen-client-urls", client, "--advertise-client-urls", client],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", `default=${peer}`],
  ]);
  const server = `https://127.0.0.1:${port}`;
  let api: Deno.ChildProcess | undefined;
  let http: Deno.HttpClient | undefined;

  const ask = async (method: string, path: string, body?: unknown): Promise<Record<string, unknown>> => {
    const type = method === "PATCH" ? "application/merge-patch+json" : "application/json";
    const response = await fetch(`${server}${path}`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": type },
      body: body === undefined ? undefined : JSON.stringify(body),
      client: http,
    } as RequestInit);
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 500)}`);
    return text.startsWith("{") ? JSON.parse(text) : { text };
  };

  const start = async (): Promise<void> => {
    api = run(APISERVER, [
      ...["--etcd-servers", client, "--secure-port", String(port), "--bind-address", "127.0.0.1"],
      ...["--advertise-address", "192.0.2.1", "--cert-dir", `${folder}/certs`, "--authorization-mode", "RBAC"],
      ...["--service-account-key-file", `${folder}/sa.key`, "--service-account-signing-key-file", `${folder}/sa.key`],
      ...["--service-account-issuer", "https://kubernetes.test", "--token-auth-file", `${folder}/tokens.csv`],
      ...["--service-cluster-ip-range", "10.0.0.0/24", "--disable-admission-plugins", "ServiceAccount"],
    ]);
    let last: unknown;
    await until(
      async () => {
        try {
          http ??= Deno.createHttpClient({ caCerts: [await Deno.readTextFile(`${folder}/certs/apiserver.crt`)] });
          return (await ask("GET", "/readyz")).text === "ok";
        } catch (error) {
          last = error;
          return false;
        }
      },
      () => `the API server is ready: ${last}`,
      120_000,
    );
  };
  const stop = async (): Promise<void> => {
    api?.kill("SIGKILL");
    await api?.status;
    api = undefined;
  };
  await start();
  const kubeconfig = `${folder}/kubeconfig`;
  await Deno.writeTextFile(
    kubeconfig,
    JSON.stringify({
      apiVersion: "v1",
      kind: "Config",
      clusters: [{ name: "c", cluster: { server, "certificate-authority": `${folder}/certs/apiserver.crt` } }],
      users: [{ name: "u", user: { token: TOKEN } }],
      contexts: [{ name: "x", context: { cluster: "c", user: "u" } }],
      "current-context": "x",
    }),
  );
  return {
    config: { api_server: server, token_file: `${folder}/token`, ca_file: `${folder}/certs/apiserver.crt` },
    kubeconfig,
    ask,
    start,
    stop,
    async compact() {
      const post = async (path: string, body: unknown) =>
        await (await fetch(`${client}${path}`, { method: "POST", body: JSON.stringify(body) })).json();
      const { header: { revision } } = await post("/v3/kv/range", { key: "AA==" });
      await post("/v3/kv/compaction", { revision, physical: true });
    },
    async [Symbol.asyncDispose]() {
      await stop();
      etcd.kill("SIGKILL");
      await etcd.status;
      http?.close();
      await Deno.remove(folder, { recursive: true });
    },
  };
}
