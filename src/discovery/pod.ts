// SPDX-License-Identifier: Apache-2.0
// What the gateway knows of the pod that it runs in.

/** Where Kubernetes puts what its service account is. */
export const ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Its namespace; "default" outside of one. */
export async function podNamespace(): Promise<string> {
  const told = Deno.env.get("POD_NAMESPACE");
  if (told) return told;
  try {
    return (await Deno.readTextFile(`${ACCOUNT_FOLDER}/namespace`)).trim();
  } catch {
    return "default";
  }
}
