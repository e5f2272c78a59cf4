// The network's figures in short, and the second network's beside them.

import { h } from "./dom";
import type { Network } from "./network";
import * as units from "./units";

const peak = (net: Network): number => net.live[net.peakAt] ?? 0;

const FIGURES: [string, string, (net: Network) => number, (value: number) => string][] = [
  ["macs", "MACs", (net) => net.total.macs, units.count],
  ["parameters", "parameters", (net) => net.parameters, units.count],
  ["peak", "peak activations", peak, units.bytes],
  ["inference", "memory", (net) => net.weightBytes + peak(net), units.bytes],
];

export function figures(net: Network, other: Network | undefined): HTMLElement[] {
  const rows: typeof FIGURES = [
    ...FIGURES,
    ["seconds", `at least, on ${net.machine.name}`, (n) => n.total.seconds, units.seconds],
  ];
  const shown = rows.map(([key, title, value, text]) =>
    h(
      "div",
      { "data-figure": key, "data-value": value(net) },
      h("span", { class: "title" }, title),
      h("strong", {}, text(value(net))),
      other && h("span", { class: "beside" }, text(value(other))),
    ),
  );
  const input = net.regime.inputs.map((t) => net.shapeOf(t).join("×")).join(", ");
  return [...shown, h("div", {}, h("span", { class: "title" }, "input"), h("strong", {}, input))];
}
