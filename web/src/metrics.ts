// What the graph can be coloured by.

import { heat, KINDS, Scale, type Theme } from "./colour";
import { type Facts, groupOf, type Item, intensity, isGroup, type Network } from "./network";
import * as units from "./units";

export interface Metric {
  key: string;
  label: string;
  of(facts: Facts, net: Network): number | undefined;
  text(value: number): string;
}

export const METRICS: Metric[] = [
  { key: "macs", label: "MACs", of: (f) => f.macs, text: (v) => units.si(v, "MACs") },
  { key: "parameters", label: "Parameters", of: (f) => f.parameters, text: (v) => units.si(v) },
  { key: "activations", label: "Activation bytes written", of: (f) => f.written, text: units.bytes },
  { key: "moved", label: "Bytes read and written", of: (f) => f.read + f.written, text: units.bytes },
  { key: "intensity", label: "FLOPs per byte", of: intensity, text: (v) => `${units.significant(v)} FLOPs/B` },
  { key: "saved", label: "Bytes saved for backward", of: (f) => f.saved, text: units.bytes },
  { key: "time", label: "Predicted time", of: (f) => f.seconds, text: units.seconds },
  { key: "measured", label: "Measured time", of: (f) => f.measured, text: units.seconds },
  { key: "energy", label: "Energy on the accelerator", of: (f) => f.energy, text: (v) => units.si(v) },
  { key: "cycles", label: "Cycles on the accelerator", of: (f) => f.cycles, text: (v) => units.si(v) },
  { key: "utilisation", label: "Utilisation of the accelerator", of: utilisation, text: units.percent },
];

function utilisation(facts: Facts, net: Network): number | undefined {
  const elements = net.doc.fit?.elements;
  return facts.cycles && elements && facts.macs ? facts.macs / (facts.cycles * elements) : undefined;
}

export const metricOf = (key: string): Metric | undefined => METRICS.find((m) => m.key === key);

/** Those that the network has figures for. */
export const available = (net: Network): Metric[] => METRICS.filter((m) => m.of(net.total, net) !== undefined);

export interface Colouring {
  scale: Scale | undefined;
  metric: Metric | undefined;
  colour(item: Item): string;
  value(item: Item): string;
}

/** By a metric over the items in sight, or by kind. */
export function colouring(net: Network, key: string, visible: Item[], theme: Theme, others: number[] = []): Colouring {
  const metric = metricOf(key);
  if (!metric) {
    return { scale: undefined, metric, colour: (item) => kindColour(net, item), value: (item) => kindText(net, item) };
  }
  const of = (item: Item): number | undefined => metric.of(net.of(item), net);
  const scale = new Scale([...visible.map((item) => of(item) ?? 0), ...others]);
  const none = theme.dark ? "#2a2e35" : "#ece9e1";
  return {
    scale,
    metric,
    colour: (item) => {
      const value = of(item);
      return value ? heat(scale.at(value), theme) : none;
    },
    value: (item) => {
      const value = of(item);
      return value ? metric.text(value) : kindText(net, item);
    },
  };
}

/** A group has the colour of what costs most in it. */
function kindColour(net: Network, item: Item): string {
  if (!isGroup(item)) return KINDS[net.regime.layers[item].kind] ?? KINDS.other;
  const sums = new Map<string, number>();
  for (const i of net.layersUnder(groupOf(item))) {
    const { kind } = net.regime.layers[i];
    sums.set(kind, (sums.get(kind) ?? 0) + net.facts[i].macs + 1e-3 * (net.facts[i].read + net.facts[i].written));
  }
  const [best] = [...sums].sort((a, b) => b[1] - a[1])[0] ?? ["other"];
  return KINDS[best] ?? KINDS.other;
}

export function kindText(net: Network, item: Item): string {
  if (!isGroup(item)) return net.regime.layers[item].op;
  const layers = net.layersUnder(groupOf(item)).length;
  const type = net.regime.groups[groupOf(item)].type;
  return `${type ? `${type}, ` : ""}${layers} layer${layers === 1 ? "" : "s"}`;
}
