// Where documents come from: the page itself, or the server behind it.

import type { Comparison, Fit, NetworkDocument, Page } from "./data";

export class Refused extends Error {}

export class Source {
  private readonly known = new Map<string, NetworkDocument>();
  private readonly pairs = new Map<string, Comparison>();

  constructor(readonly page: Page) {
    for (const doc of page.networks) this.known.set(key(doc.name, {}), doc);
    for (const [pair, found] of Object.entries(page.comparisons)) this.pairs.set(pair, found);
  }

  /** The document at hand; undefined where a server has to be asked. */
  now(name: string, changes: Record<string, string>): NetworkDocument | undefined {
    return this.known.get(key(name, changes));
  }

  async network(name: string, changes: Record<string, string>): Promise<NetworkDocument> {
    const known = this.now(name, changes);
    if (known) return known;
    if (!this.page.served) throw new Refused(`This page does not hold ${name}: lamina explore ${name} shows it.`);
    const doc = await ask<NetworkDocument>("network", { model: name, ...prefixed(changes) });
    this.known.set(key(name, changes), doc);
    return doc;
  }

  /** The network with changes as one trace at a batch and a type: sooner there than formulas of both. */
  async quick(name: string, changes: Record<string, string>, batch: number, dtype: string): Promise<NetworkDocument> {
    return ask<NetworkDocument>("network", { model: name, ...prefixed(changes), batch: String(batch), dtype });
  }

  comparison(a: string, b: string): Comparison | undefined {
    return this.pairs.get(`${a} ${b}`);
  }

  async compare(a: [string, Record<string, string>], b: [string, Record<string, string>]): Promise<Comparison | undefined> {
    const name = `${key(...a)} ${key(...b)}`;
    const known = this.pairs.get(name);
    if (known || !this.page.served) return known;
    const found = await ask<Comparison>("compare", { model: a[0], ...prefixed(a[1]), beside: b[0] });
    this.pairs.set(name, found);
    return found;
  }

  async measure(name: string): Promise<{ how: string; seconds: Record<string, number> }> {
    return ask("measure", { model: name });
  }

  async fit(name: string, changes: Record<string, string>, accelerator: string, batch: number): Promise<Fit> {
    return ask<Fit>("fit", { model: name, ...prefixed(changes), on: accelerator, batch: String(batch) });
  }
}

const prefixed = (changes: Record<string, string>): Record<string, string> =>
  Object.fromEntries(Object.entries(changes).map(([k, v]) => [`set.${k}`, v]));

export const key = (name: string, changes: Record<string, string>): string =>
  [
    name,
    ...Object.entries(changes)
      .map(([k, v]) => `${k}=${v}`)
      .sort(),
  ].join(" ");

/** The answer of the explorer's own server; what it refuses is an error with its words. */
export async function ask<T>(what: string, query: Record<string, string>, body?: BodyInit): Promise<T> {
  const address = `${what}?${new URLSearchParams(query)}`;
  const response = await fetch(address, body === undefined ? {} : { method: "POST", body });
  const answer = await response.json().catch(() => ({ error: `the server answers ${response.status}` }));
  if (!response.ok) throw new Refused(answer.error ?? `the server answers ${response.status}`);
  return answer as T;
}
