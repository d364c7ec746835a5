// SPDX-License-Identifier: Apache-2.0
// Test data that is kept beside the checkout and does not travel with it: tests that need it are skipped without it.

const root = new URL("../../../shared/", import.meta.url);

/** The text of a file of the data folder, or undefined (with a message) when the folder is absent. */
export function sharedText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(new URL(path, root));
  } catch {
    console.log(`skipped: ../shared/${path} is not here`);
    return undefined;
  }
}

/** Every file below a folder whose name ends with `ending`; none, with a message, when the folder is absent. */
export function sharedFiles(folder: string, ending: string): { name: string; text: string }[] {
  const files: { name: string; text: string }[] = [];
  const visit = (path: string): void => {
    for (const entry of Deno.readDirSync(new URL(`${path}/`, root))) {
      if (entry.isDirectory) visit(`${path}/${entry.name}`);
      else if (entry.name.endsWith(ending)) {
        const file = `${path}/${entry.name}`;
        files.push({ name: file.slice(folder.length + 1), text: Deno.readTextFileSync(new URL(file, root)) });
      }
    }
  };
  try {
    visit(folder);
  } catch {
    console.log(`skipped: ../shared/${folder} is not here`);
  }
  return files.sort((a, b) => (a.name < b.name ? -1 : 1));
}
