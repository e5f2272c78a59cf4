// Where everything is: each open group is laid out by itself (dagre) and then a box in the group around it, so that opening one
// moves only what holds it, and thousands of nodes are never one problem.

import { layout as dagre, Graph } from "@dagrejs/dagre";
import { groupOf, type Item, isGroup, type Network } from "./network";
import { childrenOf, type Edge, edgesOf } from "./visible";

export interface Point {
  x: number;
  y: number;
}

export interface Box {
  item: Item;
  x: number; // the left upper corner
  y: number;
  width: number;
  height: number;
  open: boolean;
  depth: number;
}

export interface Line {
  from: Edge["from"];
  to: Edge["to"];
  tensors: number[];
  points: Point[];
}

export interface Layout {
  boxes: Box[]; // a group before what is in it
  lines: Line[];
  width: number;
  height: number;
}

interface Local {
  places: Map<Item, { x: number; y: number; width: number; height: number }>;
  lines: Line[];
  width: number;
  height: number;
}

const HEIGHT = 38;
const HEADER = 24;
const PADDING = 14;
const GAP = { nodes: 22, ranks: 30 };
// An edge over more ranks than this is drawn beside the others, not routed among them: where few edges are long, and where many.
const LONG = [12, 2];
const MANY = 300; // ranks that all edges cross together
const PORT = 8;

export class Layouter {
  private readonly known = new Map<string, Local>();
  private readonly edges: Map<number, Edge[]>;
  private readonly children = new Map<number, Item[]>();

  constructor(
    private readonly net: Network,
    private readonly views: boolean,
  ) {
    this.edges = edgesOf(net, views);
  }

  private inside(group: number): Item[] {
    const known = this.children.get(group);
    if (known) return known;
    const found = childrenOf(this.net, group, this.views);
    this.children.set(group, found);
    return found;
  }

  layout(open: ReadonlySet<string>): Layout {
    const result: Layout = { boxes: [], lines: [], width: 0, height: 0 };
    const root = this.local(0, open);
    this.place(root, 0, 0, 0, open, result);
    result.width = root.width;
    result.height = root.height;
    return result;
  }

  private place(local: Local, x: number, y: number, depth: number, open: ReadonlySet<string>, to: Layout) {
    for (const [item, p] of local.places) {
      const unfolded = isGroup(item) && open.has(this.net.name(item));
      to.boxes.push({ item, ...p, x: x + p.x, y: y + p.y, open: unfolded, depth });
      if (unfolded) {
        const inner = this.local(groupOf(item), open);
        this.place(inner, x + p.x + PADDING, y + p.y + HEADER, depth + 1, open, to);
      }
    }
    for (const line of local.lines) {
      to.lines.push({ ...line, points: line.points.map((q) => ({ x: q.x + x, y: q.y + y })) });
    }
  }

  /** One group's children around the group's own corner. */
  private local(group: number, open: ReadonlySet<string>): Local {
    const items = this.inside(group);
    const key = `${group}:${this.signature(group, open)}`;
    const known = this.known.get(key);
    if (known) return known;
    const sizes = new Map<Item, [number, number]>();
    for (const item of items) {
      if (isGroup(item) && open.has(this.net.name(item))) {
        const inner = this.local(groupOf(item), open);
        sizes.set(item, [inner.width + 2 * PADDING, inner.height + HEADER + PADDING]);
      } else {
        sizes.set(item, [widthOf(this.net, item), HEIGHT]);
      }
    }
    const edges = (this.edges.get(group) ?? []).filter((e) => e.from !== e.to);
    const found = arrange(items, sizes, edges);
    this.known.set(key, found);
    return found;
  }

  /** Which groups below this one are open. */
  private signature(group: number, open: ReadonlySet<string>): string {
    let text = "";
    for (const item of this.inside(group)) {
      if (isGroup(item) && open.has(this.net.name(item))) text += `${groupOf(item)}(${this.signature(groupOf(item), open)})`;
    }
    return text;
  }
}

export function widthOf(net: Network, item: Item): number {
  const group = isGroup(item);
  return Math.min(240, Math.max(group ? 110 : 96, (group ? 8 : 7.2) * net.label(item).length + (group ? 50 : 26)));
}

function arrange(items: Item[], sizes: Map<Item, [number, number]>, edges: Edge[]): Local {
  const ranks = rankOf(items, edges);
  const crossed = edges.reduce((sum, e) => sum + Math.min(LONG[0], span(ranks, e)) - 1, 0);
  const long = crossed > MANY ? LONG[1] : LONG[0];
  const near = edges.filter((e) => span(ranks, e) <= long);
  const far = edges.filter((e) => span(ranks, e) > long);
  const graph = new Graph();
  graph.setGraph({
    rankdir: "TB",
    nodesep: GAP.nodes,
    ranksep: GAP.ranks,
    edgesep: 12,
    ranker: items.length > 60 ? "longest-path" : "network-simplex",
  });
  for (const item of items) {
    const [width, height] = sizes.get(item)!;
    graph.setNode(String(item), { width, height });
  }
  for (const port of ["in", "out"] as const) {
    if (edges.some((e) => e.from === port || e.to === port)) graph.setNode(port, { width: PORT, height: PORT });
  }
  for (const edge of near) graph.setEdge(String(edge.from), String(edge.to), { weight: edge.from === "in" ? 1 : 2 });
  dagre(graph);
  const places: Local["places"] = new Map();
  for (const item of items) {
    const { x, y, width, height } = graph.node(String(item));
    places.set(item, { x: x! - width / 2, y: y! - height / 2, width, height });
  }
  const lines: Line[] = near.map((edge) => ({
    ...edge,
    points: graph.edge(String(edge.from), String(edge.to)).points!,
  }));
  let { width = 0 } = graph.graph();
  const { height = 0 } = graph.graph();
  for (const edge of far) {
    const line = arc(graph, edge, width + 16 + 2 * Math.min(40, span(ranks, edge)));
    lines.push(line);
  }
  if (far.length) width += 24 + 2 * Math.min(40, Math.max(...far.map((e) => span(ranks, e))));
  return { places, lines, width: Math.max(width, 60), height: Math.max(height, 20) };
}

/** The longest way to each child from the first ones. */
function rankOf(items: Item[], edges: Edge[]): Map<Edge["from"], number> {
  const order = new Map<Edge["from"], number>(items.map((item, i) => [item, i]));
  const next = new Map<Edge["from"], Edge["from"][]>();
  for (const { from, to } of edges) next.set(from, [...(next.get(from) ?? []), to]);
  const ranks = new Map<Edge["from"], number>([["in", 0]]);
  for (const item of ["in" as const, ...items]) {
    const rank = ranks.get(item) ?? 0;
    ranks.set(item, rank);
    for (const to of next.get(item) ?? []) {
      const forward = item === "in" || to === "out" || order.get(to)! > order.get(item)!;
      if (forward) ranks.set(to, Math.max(ranks.get(to) ?? 0, rank + 1));
    }
  }
  return ranks;
}

function span(ranks: Map<Edge["from"], number>, edge: Edge): number {
  return (ranks.get(edge.to) ?? 0) - (ranks.get(edge.from) ?? 0);
}

/** From the right side of one box to that of another, around everything between. */
function arc(graph: Graph, edge: Edge, x: number): Line {
  const a = graph.node(String(edge.from));
  const b = graph.node(String(edge.to));
  const start = { x: a.x! + a.width / 2, y: a.y! };
  const end = { x: b.x! + b.width / 2, y: b.y! };
  return { ...edge, points: [start, { x, y: start.y + 12 }, { x, y: end.y - 12 }, end] };
}
