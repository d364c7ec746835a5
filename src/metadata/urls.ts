// SPDX-License-Identifier: Apache-2.0
// Path and query of an absolute request URL.

export function pathAndQuery(url: string): { path: string; query: URLSearchParams } {
  const { pathname, searchParams } = new URL(url);
  return { path: pathname, query: searchParams };
}
