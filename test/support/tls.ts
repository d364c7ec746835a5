// SPDX-License-Identifier: Apache-2.0
// A certificate for 127.0.0.1, made by openssl where that is installed.

/** Files with a certificate and its key in a new folder; undefined, with a message, without openssl. */
export function makeCertificate(): { cert: string; key: string } | undefined {
  const folder = Deno.makeTempDirSync();
  const [cert, key] = [`${folder}/cert.pem`, `${folder}/key.pem`];
  const args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
  try {
    const { success } = new Deno.Command("openssl", {
      args: [...args, "-keyout", key, "-out", cert, ...names, "-addext", "basicConstraints=critical,CA:FALSE"],
      stdout: "null",
      stderr: "null",
    }).outputSync();
    if (success) return { cert, key };
  } catch {
    // not installed
  }
  console.log("skipped: openssl is not here");
  return undefined;
}
