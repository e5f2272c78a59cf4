// One layer or module: its formula filled in, its loops, its weights, its tensors, and how long they live.

import type { Nest } from "./data";
import { h } from "./dom";
import { type Facts, groupItem, groupOf, type Item, intensity, isGroup, type Network } from "./network";
import * as units from "./units";

const WORDS: Record<string, string> = {
  times: "repeats",
  G: "groups",
  N: "batch",
  M: "output channels",
  C: "input channels",
};

/** "64·3·7·7·112·112 = 118,013,952": the loops that are left when those of one turn before the channels are passed over. */
export function formula(net: Network, nest: Nest): string {
  const sizes = factors(net, nest);
  const product = sizes.reduce((a, [, n]) => a * n, 1);
  return `${sizes.map(([, n]) => n).join("·")} = ${units.count(product)}`;
}

export function factors(net: Network, nest: Nest): [string, number][] {
  const all = nest.loops.map(([letter, n]) => [letter, net.size(n)] as [string, number]);
  return all.filter(([letter, n]) => n !== 1 || !["times", "G", "N"].includes(letter));
}

function loops(net: Network, nest: Nest): string {
  const sizes = factors(net, nest);
  const rows = sizes.map(([letter, n], i) => `${"  ".repeat(i)}for ${letter.toLowerCase()} in 0 … ${n - 1}`);
  const spatial = sizes.filter(([l]) => "PQXYZ".includes(l[0])).length;
  const name = (k: number, fallback: string): string => {
    const operand = nest.operands[k];
    return typeof operand === "string" ? operand.slice(operand.lastIndexOf(".") + 1) : fallback;
  };
  const grouped = sizes.some(([l]) => l === "G") ? "g, " : "";
  const batched = sizes.some(([l]) => l === "N") ? "n, " : "";
  const places = ["p", "q", "x"].slice(0, spatial);
  const taps = ["r", "s", "t"].slice(0, spatial);
  const at = places.map((p, k) => window(nest, p, taps[k], k));
  const into = [`${grouped}${batched}m`, ...places].join(", ");
  const from = [`${grouped}${batched}c`, ...at].join(", ");
  const body = nest.transposed
    ? `out[${[`${grouped}${batched}m`, ...at].join(", ")}] += ${name(0, "in")}[${[`${grouped}${batched}c`, ...places].join(", ")}] · ${name(1, "weight")}[${[`${grouped}m, c`, ...taps].join(", ")}]`
    : `out[${into}] += ${name(0, "in")}[${from}] · ${name(1, "weight")}[${[`${grouped}m, c`, ...taps].join(", ")}]`;
  return [...rows, `${"  ".repeat(rows.length)}${body}`].join("\n");
}

function window(nest: Nest, place: string, tap: string, k: number): string {
  const stride = nest.stride?.[k] ?? 1;
  const padding = nest.padding?.[k] ?? 0;
  const before = Array.isArray(padding) ? padding[0] : padding;
  const dilation = nest.dilation?.[k] ?? 1;
  return `${stride > 1 ? `${stride}${place}` : place} + ${dilation > 1 ? `${dilation}${tap}` : tap}${before ? ` − ${before}` : ""}`;
}

export function detail(net: Network, item: Item, choose: (item: Item) => void): HTMLElement {
  const root = h("div", { class: "detail" });
  root.append(trail(net, item, choose), h("h2", {}, net.label(item)));
  root.append(isGroup(item) ? group(net, groupOf(item), choose) : layer(net, item, choose));
  return root;
}

function trail(net: Network, item: Item, choose: (item: Item) => void): HTMLElement {
  const path: Item[] = [];
  for (let above = net.parentOf(item); above >= 0; above = net.regime.groups[above].parent) path.unshift(groupItem(above));
  return h(
    "nav",
    { class: "trail", "aria-label": "Modules around it" },
    ...path.map((p) => h("button", { type: "button", onclick: () => choose(p) }, net.label(p))),
  );
}

function list(rows: [string, string | Node][]): HTMLElement {
  return h("dl", {}, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]));
}

function figures(net: Network, facts: Facts): [string, string][] {
  const share = net.total.macs ? ` (${units.percent(facts.macs / net.total.macs)})` : "";
  const rows: [string, string][] = [
    ["MACs", facts.macs ? `${units.count(facts.macs)}${share}` : "none"],
    ["Parameters", facts.parameters ? units.count(facts.parameters) : "none"],
    ["Read, written", `${units.bytes(facts.read)}, ${units.bytes(facts.written)}`],
    ["Arithmetic intensity", `${units.significant(intensity(facts))} FLOPs per byte`],
    ["Saved for backward", facts.saved ? units.bytes(facts.saved) : "nothing more"],
    ["Predicted time", `${units.seconds(facts.seconds)} at least, on ${net.machine.name}`],
  ];
  if (facts.backward) rows.splice(1, 0, ["MACs backward", units.count(facts.backward)]);
  if (facts.measured !== undefined) rows.push(["Measured", units.seconds(facts.measured)]);
  if (facts.energy !== undefined) rows.push([`Energy on ${net.doc.fit?.accelerator}`, units.si(facts.energy)]);
  return rows;
}

function group(net: Network, place: number, choose: (item: Item) => void): HTMLElement {
  const item = groupItem(place);
  const facts = net.of(item);
  const { type } = net.regime.groups[place];
  const root = h(
    "div",
    {},
    list([...(type ? [["Type", type] as [string, string]] : []), ["Layers", String(facts.layers)], ...figures(net, facts)]),
  );
  if (!place) root.append(whole(net));
  const largest = net.children[place].map((child) => [child, net.of(child).macs] as const).sort((a, b) => b[1] - a[1]);
  root.append(
    h("h3", {}, "In it, by MACs"),
    h(
      "ol",
      { class: "inside" },
      ...largest.slice(0, 24).map(([child, macs]) => {
        const bar = h("span", { class: "share", "aria-hidden": "true" });
        bar.style.width = `${(100 * macs) / (largest[0][1] || 1)}%`;
        const row = h("button", { type: "button", onclick: () => choose(child) }, net.label(child));
        return h("li", {}, row, h("span", { class: "amount" }, macs ? units.si(macs) : ""), bar);
      }),
    ),
  );
  return root;
}

/** What only the whole network has. */
function whole(net: Network): HTMLElement {
  const { doc } = net;
  const root = h("div");
  const rows: [string, string][] = [
    ["Weights", `${units.bytes(net.weightBytes)} in ${net.regime.weights.length} tensors`],
    ["Peak of live activations", units.bytes(net.live[net.peakAt] ?? 0)],
    ["Memory for inference", units.bytes(net.weightBytes + (net.live[net.peakAt] ?? 0))],
  ];
  if (doc.paper) rows.unshift(["Paper", `${doc.paper.title}, ${doc.paper.year}. ${doc.paper.venue}`]);
  root.append(list(rows));
  const notes = [
    ...(doc.deviations ?? []),
    ...doc.assumptions.map((text) => `Assumed: ${text}`),
    ...doc.unknown.map((u) => `Not counted, no rule: ${u.op} in ${u.layer}`),
  ];
  if (notes.length) root.append(h("h3", {}, "To know"), h("ul", {}, ...notes.map((text) => h("li", {}, text))));
  return root;
}

function layer(net: Network, place: number, choose: (item: Item) => void): HTMLElement {
  const row = net.regime.layers[place];
  const root = h("div");
  root.append(h("p", { class: "sub" }, `${row.type ? `${row.type} · ` : ""}${row.op} · ${row.name}`));
  for (const nest of row.nests ?? []) root.append(nestOf(net, nest));
  root.append(list(figures(net, net.facts[place])));
  const attributes = Object.entries(row.attributes ?? {});
  if (attributes.length) {
    root.append(h("h3", {}, "Attributes"), list(attributes.map(([k, v]) => [k, Array.isArray(v) ? v.join(" × ") : String(v)])));
  }
  if (row.weights?.length) root.append(h("h3", {}, "Weights"), weights(net, row.weights));
  root.append(h("h3", {}, "Tensors"), tensors(net, place, choose));
  const mapped = net.fitOf(row.name);
  if (mapped?.nests.length) {
    root.append(h("h3", {}, `Mapping on ${net.doc.fit?.accelerator} (${mapped.dataflow})`));
    for (const nest of mapped.nests) root.append(h("pre", { tabindex: 0, "aria-label": "Mapping" }, nest.mapping.join("\n")));
  }
  return root;
}

function nestOf(net: Network, nest: Nest): HTMLElement {
  const named = factors(net, nest);
  return h(
    "section",
    { class: "nest" },
    h("p", { class: "formula" }, formula(net, nest)),
    h(
      "p",
      { class: "letters" },
      named
        .map(([letter]) => WORDS[letter] ?? ("RSTUVW".includes(letter[0]) ? `filter ${letter}` : `output ${letter}`))
        .join(" · "),
    ),
    h("pre", { tabindex: 0, "aria-label": "Loop nest" }, loops(net, nest)),
  );
}

function weights(net: Network, places: number[]): HTMLElement {
  return h(
    "table",
    { class: "small" },
    h("thead", {}, h("tr", {}, ...["name", "shape", "type", "bytes"].map((t) => h("th", { scope: "col" }, t)))),
    h(
      "tbody",
      {},
      ...places.map((i) => {
        const w = net.regime.weights[i];
        const tied = w.names.length > 1 ? ` (tied: ${w.names.slice(1).join(", ")})` : "";
        return h(
          "tr",
          {},
          h("td", {}, `${w.names[0]}${tied}`),
          h("td", {}, units.shape(w.shape)),
          h("td", {}, net.dtypeOf(w.dtype)),
          h("td", { class: "number" }, units.bytes(net.value(w.bytes))),
        );
      }),
    ),
  );
}

/** Inputs and outputs: shape, bytes of the storage behind it, and from which layer to which it is alive. */
function tensors(net: Network, place: number, choose: (item: Item) => void): HTMLElement {
  const row = net.regime.layers[place];
  const one = (title: string, tensor: number): HTMLElement => {
    const { dtype, storage } = net.regime.tensors[tensor];
    const life = net.regime.storages[storage];
    const text = life ? lifetime(net, life.born, life.freed) : "held by a weight or a buffer";
    const producer = net.regime.layers.findIndex((x) => x.outputs?.includes(tensor));
    const name = producer >= 0 ? net.regime.layers[producer].name : "the network's input";
    const link =
      producer >= 0 && producer !== place ? h("button", { type: "button", onclick: () => choose(producer) }, name) : name;
    return h(
      "tr",
      {},
      h("td", {}, title),
      h("td", {}, `${units.shape(net.shapeOf(tensor))} ${net.dtypeOf(dtype)}`),
      h("td", {}, title === "in" ? link : ""),
      h("td", {}, text),
    );
  };
  return h(
    "table",
    { class: "small" },
    h("thead", {}, h("tr", {}, ...["", "shape", "from", "alive"].map((t) => (t ? h("th", { scope: "col" }, t) : h("td"))))),
    h("tbody", {}, ...row.inputs.map((t) => one("in", t)), ...(row.outputs ?? []).map((t) => one("out", t))),
  );
}

export function lifetime(net: Network, born: number, freed: number): string {
  const last = net.regime.layers.length - 1;
  if (freed < born) return "never: only for the backward pass";
  const start = born < 0 ? "from the beginning" : `from layer ${born + 1}`;
  return `${start} to ${freed >= last ? "the end" : `layer ${freed + 1}, ${net.regime.layers[freed].name}`}`;
}
