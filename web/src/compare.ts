// Two networks: their figures, the difference, and which layers changed, as `lamina compare` finds them.

import type { Change, Comparison } from "./data";
import { h } from "./dom";
import { csvOf, save } from "./export";
import { intensity, type Network } from "./network";
import * as units from "./units";

export const STATUS: Record<string, string> = {
  changed: "#d55e00",
  added: "#009e73",
  removed: "#c0609a",
  renamed: "#2f7fc1",
};
const MOST = 400;

const ROWS: [string, (net: Network) => number, (value: number) => string][] = [
  ["Layers", (n) => n.total.layers, units.count],
  ["Parameters", (n) => n.parameters, units.count],
  ["MACs", (n) => n.total.macs, units.count],
  ["MACs backward", (n) => n.total.backward, units.count],
  ["Activations", (n) => n.total.activations, units.count],
  ["Peak of live activations", (n) => n.live[n.peakAt] ?? 0, units.bytes],
  ["Bytes read and written", (n) => n.total.read + n.total.written, units.bytes],
  ["FLOPs per byte", (n) => intensity(n.total), units.significant],
  ["Predicted time", (n) => n.total.seconds, units.seconds],
];

export function compare(
  a: Network,
  b: Network | undefined,
  found: Comparison | undefined,
  chosen: string,
  choose: (change: Change) => void,
): HTMLElement {
  const root = h("div", { class: "panel-compare" });
  if (!b) {
    root.append(h("p", { class: "sub" }, "Choose a second network above: it is shown beside the first, with what differs."));
    return root;
  }
  root.append(
    h(
      "table",
      { class: "small totals" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td"),
          ...[a.doc.name, b.doc.name, "difference"].map((t) => h("th", { scope: "col", class: "number" }, t)),
        ),
      ),
      h(
        "tbody",
        {},
        ...ROWS.map(([title, of, text]) => {
          const [x, y] = [of(a), of(b)];
          const share = x ? `${y >= x ? "+" : "−"}${Math.abs((100 * (y - x)) / x).toFixed(1)} %` : "";
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, title),
            ...[text(x), text(y), x === y ? "same" : share].map((t) => h("td", { class: "number" }, t)),
          );
        }),
      ),
    ),
  );
  if (!found) return root;
  const changes = found.layers.filter((c) => c.status !== "same");
  const shown = changes.slice(0, MOST);
  root.append(
    h("h3", {}, `${units.percent(found.shared)} of the layers are alike; ${changes.length} differ`),
    h("div", { class: "bar" }, h("button", { type: "button", onclick: () => csv(a, b, found) }, "CSV")),
    h(
      "table",
      { class: "small changes" },
      h(
        "thead",
        {},
        h("tr", {}, ...["", a.doc.name, b.doc.name, "what"].map((t) => (t ? h("th", { scope: "col" }, t) : h("td")))),
      ),
      h("tbody", {}, ...shown.map((change) => row(change, chosen, choose))),
    ),
  );
  if (changes.length > MOST) root.append(h("p", { class: "sub" }, `The first ${MOST} of them; the CSV has all.`));
  return root;
}

function row(change: Change, chosen: string, choose: (change: Change) => void): HTMLElement {
  const here = chosen !== "" && (change.before === chosen || change.after === chosen);
  const link = (name: string): HTMLElement | string =>
    name ? h("button", { type: "button", onclick: () => choose(change) }, name) : "";
  return h(
    "tr",
    { class: here ? "chosen" : undefined },
    h("td", {}, h("span", { class: `status ${change.status}` }, change.status)),
    h("td", {}, link(change.before)),
    h("td", {}, link(change.after)),
    h("td", {}, change.difference),
  );
}

function csv(a: Network, b: Network, found: Comparison): void {
  const rows = found.layers.map((c) => [c.status, c.before, c.after, c.difference]);
  const head = [["status", a.doc.name, b.doc.name, "difference"]];
  save(`${a.doc.name}-${b.doc.name}.csv`, new Blob([csvOf([...head, ...rows])], { type: "text/csv" }));
}

/** The status of each layer, by its name in the first or in the second network; modules have that of what is in them. */
export function marks(found: Comparison | undefined, second: boolean): Map<string, string> {
  const result = new Map<string, string>();
  for (const change of found?.layers ?? []) {
    const name = second ? change.after : change.before;
    if (name && change.status !== "same") result.set(name, STATUS[change.status]);
  }
  return result;
}
