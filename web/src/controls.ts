// The bar above the graph: which networks, how large, coloured by what; and the search.

import type { Field, NetworkDocument, Page } from "./data";
import { h, select } from "./dom";
import { METRICS } from "./metrics";
import { DTYPES, groupItem, groupOf, type Item, isGroup, type Network, regimeOf } from "./network";
import type { State } from "./state";

export type Change = (change: Partial<State>) => void;
const BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/** A choice of networks; on a served page any text that Lamina takes for a MODEL. */
export function chooser(page: Page, label: string, value: string, none: string, change: (name: string) => void): HTMLElement {
  if (!page.served) {
    const options = page.networks.map((doc) => [doc.name, doc.name] as [string, string]);
    if (none) options.unshift(["", none]);
    return h("label", {}, label, select(label, options, value, change));
  }
  const input = h("input", {
    type: "text",
    list: "networks",
    value,
    placeholder: none,
    "aria-label": label,
    spellcheck: "false",
  });
  input.addEventListener("change", () => change(input.value.trim()));
  return h("label", {}, label, input);
}

export function batchKnob(doc: NetworkDocument, batch: number, dtype: string, change: Change): HTMLElement {
  const free = doc.regimes.some((r) => r.batch[1] === null);
  const place = BATCHES.findIndex((n) => n >= batch);
  const range = h("input", {
    type: "range",
    min: 0,
    max: BATCHES.length - 1,
    step: 1,
    value: place < 0 ? BATCHES.length - 1 : place,
    "aria-label": "Batch",
    disabled: !free,
  });
  const number = h("input", {
    type: "number",
    min: 1,
    max: 65536,
    value: batch,
    "aria-label": "Batch, exactly",
    disabled: !free,
  });
  const set = (n: number): void => {
    if (n >= 1 && n <= 65536 && Number.isInteger(n) && regimeOf(doc, n, dtype)) change({ batch: n === doc.batch ? 0 : n });
    else number.value = String(batch);
  };
  range.addEventListener("input", () => {
    const n = BATCHES[Number(range.value)];
    number.value = String(n);
    set(n);
  });
  number.addEventListener("change", () => set(Number(number.value)));
  return h("label", { class: "knob", title: free ? undefined : `Fixed: ${doc.why}` }, "batch", range, number);
}

export function typeKnob(doc: NetworkDocument, batch: number, dtype: string, change: Change): HTMLElement {
  const types = Object.keys(DTYPES).filter((type) => doc.regimes.some((r) => r.dtypes.length) && regimeOf(doc, batch, type));
  if (types.length < 2)
    return h("label", { class: "knob", title: `Fixed: ${doc.why}` }, "precision", h("span", {}, DTYPES[dtype]?.label ?? dtype));
  const list = types.map((type) => [type, DTYPES[type].label] as [string, string]);
  return h(
    "label",
    { class: "knob" },
    "precision",
    select("Precision", list, dtype, (v) => change({ dtype: v === doc.dtype ? "" : v })),
  );
}

export function heatChoice(net: Network, heat: string, change: Change): HTMLElement {
  const list = METRICS.filter((m) => m.of(net.total, net) !== undefined).map((m) => [m.key, m.label] as [string, string]);
  return h(
    "label",
    {},
    "colour",
    select("Colour by", [["kind", "Kind of layer"], ...list], heat, (v) => change({ heat: v })),
  );
}

/** Sliders and fields for the sizes of the input and every field of the network's configuration. */
export function settings(
  doc: NetworkDocument,
  changes: Record<string, string>,
  change: (name: string, value: string) => void,
): HTMLElement {
  const sizes = Object.entries(doc.sizes ?? {}).map(([name, value]) => ({ name, value, default: value, type: "int" }) as Field);
  const fields = [...sizes, ...(doc.fields ?? [])];
  return h("div", { class: "settings" }, ...fields.map((field) => setting(field, changes[field.name], change)));
}

function setting(field: Field, changed: string | undefined, change: (name: string, value: string) => void): HTMLElement {
  const value = changed ?? String(field.value ?? "");
  const label = h("label", { class: changed === undefined ? "" : "changed" }, field.name);
  const say = (text: string): void => {
    const same = text === String(field.default ?? "");
    label.classList.toggle("changed", !same);
    change(field.name, same ? "" : text);
  };
  if (field.type === "bool" || field.type === "choice") {
    const choices = field.type === "bool" ? ["true", "false"] : (field.choices ?? []);
    const options = choices.map((c) => [c, c] as [string, string]);
    label.append(select(field.name, options, value, say));
    return label;
  }
  const number = field.type !== "text";
  const step = field.type === "float" ? "any" : 1;
  const input = h("input", { type: number ? "number" : "text", value, step, "aria-label": `${field.name}, exactly` });
  input.addEventListener("change", () => say(input.value));
  const start = Number(field.default);
  if (number && start > 0) label.append(slider(field, start, value, input, say));
  label.append(input);
  return label;
}

function slider(field: Field, start: number, value: string, input: HTMLInputElement, say: (text: string) => void): HTMLElement {
  const step = field.type === "float" ? start / 20 : stepOf(field.name, start);
  const max = field.type === "float" ? Math.max(1, 2 * start) : Math.max(4 * step, 3 * start);
  const range = h("input", { type: "range", min: step, max, step, value, "aria-label": field.name });
  range.addEventListener("input", () => {
    input.value = range.value;
    say(range.value);
  });
  input.addEventListener("change", () => {
    range.value = input.value;
  });
  return range;
}

/** Sizes of images go by 32, as most networks take them; widths by an eighth. */
function stepOf(name: string, value: number): number {
  if (name === "resolution" || name === "img_size") return value % 32 ? Math.max(1, Math.round(value / 8)) : 32;
  return value >= 64 && value % 8 === 0 ? value / 8 : 1;
}

const FOUND = 40;

/** Modules and layers with all the words in their names, and then those that have them in their kinds and types, too. */
function found(net: Network, words: string[]): Item[] {
  const { groups, layers } = net.regime;
  const has = (text: string): boolean => words.every((w) => text.toLowerCase().includes(w));
  const items = [...groups.slice(1).map((_, i) => groupItem(i + 1)), ...layers.map((_, i) => i)];
  const more = (item: Item): string => {
    if (isGroup(item)) return groups[groupOf(item)].type;
    const { op, kind, type } = layers[item];
    return `${op} ${kind} ${type ?? ""}`;
  };
  const named = items.filter((item) => has(net.name(item)));
  const first = new Set(named);
  return [...named, ...items.filter((item) => !first.has(item) && has(`${net.name(item)} ${more(item)}`))];
}

export class Search {
  readonly element: HTMLElement;
  private readonly input = h("input", {
    type: "search",
    placeholder: "find a layer  /",
    "aria-label": "Find a layer or module",
    role: "combobox",
    "aria-expanded": "false",
    "aria-controls": "found",
    "aria-autocomplete": "list",
    spellcheck: "false",
  });
  private readonly list = h("ul", { id: "found", role: "listbox", "aria-label": "Found" });
  private net: Network | undefined;
  private items: Item[] = [];
  private place = 0;

  constructor(private readonly choose: (item: Item) => void) {
    this.element = h("div", { class: "search" }, this.input, this.list);
    this.list.hidden = true;
    this.input.addEventListener("input", () => this.find());
    this.input.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    this.input.addEventListener("keydown", (event) => this.key(event));
  }

  show(net: Network): void {
    this.net = net;
  }

  focus(): void {
    this.input.focus();
    this.input.select();
  }

  private find(): void {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.items = [];
    if (this.net && words.length) {
      this.items = found(this.net, words);
    }
    this.place = 0;
    this.fill(words.length > 0);
  }

  private fill(asked: boolean): void {
    const rows = this.items.slice(0, FOUND).map((item, i) =>
      h(
        "li",
        {
          role: "option",
          id: `found-${i}`,
          "aria-selected": String(i === this.place),
          onpointerdown: () => this.take(item),
        },
        this.net!.name(item),
      ),
    );
    const more = this.items.length - rows.length;
    if (more > 0) rows.push(h("li", { class: "more", role: "presentation" }, `and ${more} more`));
    if (asked && !rows.length) rows.push(h("li", { class: "more", role: "presentation" }, "nothing is called so"));
    this.list.replaceChildren(...rows);
    this.list.hidden = !rows.length;
    this.input.setAttribute("aria-expanded", String(rows.length > 0));
    if (this.items.length) this.input.setAttribute("aria-activedescendant", `found-${this.place}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  private key(event: KeyboardEvent): void {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const most = Math.min(FOUND, this.items.length);
      this.place = most ? (this.place + (event.key === "ArrowDown" ? 1 : most - 1)) % most : 0;
      this.fill(true);
      event.preventDefault();
    } else if (event.key === "Enter" && this.items.length) {
      this.take(this.items[this.place]);
    } else if (event.key === "Escape") {
      this.close();
    }
  }

  private take(item: Item): void {
    this.close();
    this.choose(item);
  }

  private close(): void {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
