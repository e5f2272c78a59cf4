// What of a network is to be seen: its tree with some groups open, and the edges between what is then visible.

import { groupItem, groupOf, type Item, isGroup, type Network } from "./network";

export interface Edge {
  from: Item | "in" | "out";
  to: Item | "in" | "out";
  tensors: number[];
}

/** More nodes than these are not laid out at once. */
export const MOST = 4000;

/** For each open group the edges between its children; "in" and "out" stand for what is around it. */
export function edgesOf(net: Network, views: boolean): Map<number, Edge[]> {
  const found = new Map<number, Map<string, Edge>>();
  const add = (group: number, from: Edge["from"], to: Edge["to"], tensor: number): void => {
    const edges = found.get(group) ?? new Map<string, Edge>();
    found.set(group, edges);
    const key = `${from}>${to}`;
    const edge = edges.get(key);
    if (!edge) edges.set(key, { from, to, tensors: [tensor] });
    else if (!edge.tensors.includes(tensor)) edge.tensors.push(tensor);
  };
  const ancestors = net.regime.layers.map((_, i) => lineage(net, i));
  for (const [from, to, tensor] of flows(net, views)) {
    const b = ancestors[to];
    const a = from < 0 ? [groupItem(0)] : ancestors[from];
    let shared = 0; // the groups that hold both, from the outermost
    while (shared < a.length && shared < b.length && a[shared] === b[shared]) shared++;
    if (from >= 0) {
      add(groupOf(a[shared - 1]), a[shared], b[shared], tensor);
      for (let i = shared + 1; i < a.length; i++) add(groupOf(a[i - 1]), a[i], "out", tensor);
    } else {
      add(0, "in", b[1], tensor);
      shared = 1;
    }
    for (let i = shared + 1; i < b.length; i++) add(groupOf(b[i - 1]), "in", b[i], tensor);
  }
  return new Map([...found].map(([group, edges]) => [group, [...edges.values()]]));
}

/** From the network itself to the layer. */
function lineage(net: Network, layer: number): Item[] {
  const path: Item[] = [layer];
  for (let group = net.regime.layers[layer].group; group >= 0; group = net.regime.groups[group].parent)
    path.push(groupItem(group));
  return path.reverse();
}

/** The edges, with views left out: what reads one reads what it is a view of. */
function flows(net: Network, views: boolean): [number, number, number][] {
  const { edges, layers } = net.regime;
  if (views) return edges;
  const sources = new Map<number, [number, number][]>(); // of each hidden layer
  const seen = new Set<string>();
  const result: [number, number, number][] = [];
  for (const [from, to, tensor] of edges) {
    const origins: [number, number][] = from >= 0 && hidden(net, from) ? (sources.get(from) ?? []) : [[from, tensor]];
    for (const [origin, first] of origins) {
      if (hidden(net, to)) {
        sources.set(to, [...(sources.get(to) ?? []), [origin, first]]);
        continue;
      }
      const key = `${origin}>${to}>${first}`;
      if (!seen.has(key)) result.push([origin, to, first]);
      seen.add(key);
    }
  }
  return layers.length ? result : [];
}

/** Views move nothing; they are nodes of their own only where that is asked for. */
export const hidden = (net: Network, layer: number): boolean =>
  net.regime.layers[layer].kind === "view" && !net.regime.layers[layer].weights?.length;

/** Children to show, with groups that hold nothing visible left out. */
export function childrenOf(net: Network, group: number, views: boolean): Item[] {
  return net.children[group].filter((item) =>
    isGroup(item) ? net.layersUnder(groupOf(item)).some((i) => views || !hidden(net, i)) : views || !hidden(net, item),
  );
}

export function countVisible(net: Network, open: ReadonlySet<string>, views: boolean, group = 0): number {
  let sum = 0;
  for (const item of childrenOf(net, group, views)) {
    sum++;
    if (isGroup(item) && open.has(net.name(item))) sum += countVisible(net, open, views, groupOf(item));
  }
  return sum;
}

/** As much open as is drawn at once, level by level, and how many nodes are then to be seen. */
export function unfolded(net: Network, views: boolean): { open: string[]; nodes: number } {
  const open: string[] = [];
  const next = [0];
  let nodes = childrenOf(net, 0, views).length;
  for (const group of next) {
    for (const item of childrenOf(net, group, views)) {
      if (!isGroup(item)) continue;
      const inside = childrenOf(net, groupOf(item), views).length;
      if (nodes + inside > MOST) continue;
      nodes += inside;
      open.push(net.name(item));
      next.push(groupOf(item));
    }
  }
  return { open, nodes };
}

/** What is open at first: the stages, and what alone holds nearly everything. */
export function opening(net: Network): Set<string> {
  const open = new Set<string>();
  let group = 0;
  for (;;) {
    const children = childrenOf(net, group, false);
    const whole = net.layersUnder(group).length;
    const main = children.find((item) => isGroup(item) && net.layersUnder(groupOf(item)).length > 0.8 * whole);
    if (main === undefined || childrenOf(net, groupOf(main), false).length > 40) return open;
    open.add(net.name(main));
    group = groupOf(main);
  }
}

/** The innermost visible item that holds a layer, or an item itself. */
export function visibleOf(net: Network, item: Item, open: ReadonlySet<string>): Item {
  let best = item;
  for (let group = net.parentOf(item); group > 0; group = net.regime.groups[group].parent) {
    if (!open.has(net.name(groupItem(group)))) best = groupItem(group);
  }
  return best;
}
