// The memory timeline: every storage from the layer that makes it to the last that holds it, stacked, and what makes the peak.

import { type Axis, at, Plot, type Scale, valueAt } from "./chart";
import { mix, type Theme } from "./colour";
import { h } from "./dom";
import type { Network } from "./network";
import type { Painter } from "./painter";
import * as units from "./units";

const PALETTE = ["#2f7fc1", "#2a93a5", "#009e73", "#6f8f2f", "#a87900", "#8068c8", "#c0609a"];

export class Timeline extends Plot {
  protected readonly room = { left: 66, right: 14, top: 26, bottom: 42 };
  private net: Network | undefined;
  private chosen: number | undefined;
  private stacks: Map<number, [number, number][]> | undefined; // of each storage, from `born` on: where it lies
  private names: string[] = [];
  private readonly words = h("div", { class: "under" });
  readonly panel = h("div", { class: "panel-memory" });

  constructor(choose: (layer: number) => void) {
    super("memory", "Memory alive while each layer runs; the text below has the peak", {});
    this.panel.append(this.element, this.words);
    this.surface.canvas.addEventListener("click", (event) => {
      if (!this.net) return;
      const layer = Math.floor(valueAt(this.axes().x, event.offsetX));
      if (layer >= 0 && layer < this.net.live.length) choose(layer);
    });
  }

  show(net: Network, theme: Theme, chosen: number | undefined): void {
    if (net !== this.net) {
      this.net = net;
      this.stacks = undefined;
      this.names = storageNames(net);
    }
    this.theme = theme;
    this.chosen = chosen;
    this.describe();
    this.repaint();
  }

  protected get ready(): boolean {
    return this.net !== undefined;
  }

  protected file(): string {
    return `${this.net?.doc.name}-memory`;
  }

  protected title(): string {
    return `Activations alive while each layer of ${this.net?.doc.name} runs`;
  }

  protected rows(): (string | number)[][] {
    const net = this.net!;
    return [["layer", "bytes alive"], ...net.live.map((n, i) => [net.regime.layers[i].name, n])];
  }

  protected scales(): { x: Scale; y: Scale } {
    const net = this.net!;
    const high = Math.max(1, net.live[net.peakAt] ?? 1) * 1.04;
    const x = {
      low: 0,
      high: Math.max(1, net.live.length),
      log: false,
      title: "layer, in the order of execution",
      text: String,
    };
    const y = {
      low: 0,
      high,
      log: false,
      title: "bytes alive",
      text: units.bytes,
    };
    return { x, y };
  }

  /** Storages lie on each other in the order of their birth; when one goes, the later ones come down. */
  private stack(): Map<number, [number, number][]> {
    if (this.stacks) return this.stacks;
    const net = this.net!;
    const last = net.live.length;
    const begin: number[][] = Array.from({ length: last + 1 }, () => []);
    net.regime.storages.forEach((life, i) => {
      if (life.freed >= life.born) begin[Math.max(0, life.born)].push(i);
    });
    const found = new Map<number, [number, number][]>();
    let alive: number[] = [];
    for (let step = 0; step < last; step++) {
      alive = alive.filter((i) => net.regime.storages[i].freed >= step).concat(begin[step]);
      let sum = 0;
      for (const i of alive) {
        const size = net.value(net.regime.storages[i].bytes);
        const places = found.get(i) ?? [];
        places.push([step, sum]);
        found.set(i, places);
        sum += size;
      }
    }
    this.stacks = found;
    return found;
  }

  protected plot(painter: Painter, x: Axis, y: Axis): void {
    const net = this.net!;
    const { theme } = this;
    for (const [storage, places] of this.stack()) {
      const size = net.value(net.regime.storages[storage].bytes);
      if (at(y, 0) - at(y, size) < 0.4) continue;
      const tint = mix(PALETTE[storage % PALETTE.length], theme.paper, 0.25);
      for (const [start, end, low] of runs(places)) {
        const [left, right] = [at(x, start), at(x, end + 1)];
        const [top, bottom] = [at(y, low + size), at(y, low)];
        painter.rect(left, top, Math.max(0.7, right - left), bottom - top, {
          fill: tint,
          stroke: theme.paper,
          width: 0.5,
        });
      }
    }
    net.regime.layers.forEach((row, i) => {
      const space = net.value(row.workspace);
      if (!space) return;
      const [top, bottom] = [at(y, net.live[i]), at(y, net.live[i] - space)];
      painter.rect(at(x, i), top, at(x, i + 1) - at(x, i), bottom - top, { fill: theme.soft, alpha: 0.5 });
    });
    const line = net.live.flatMap((n, i) => [
      { x: at(x, i), y: at(y, n) },
      { x: at(x, i + 1), y: at(y, n) },
    ]);
    painter.path(line, { stroke: theme.ink, width: 1.2 });
    this.marks(painter, x, y);
  }

  private marks(painter: Painter, x: Axis, y: Axis): void {
    const net = this.net!;
    const peak = net.peakAt;
    const place = { x: (at(x, peak) + at(x, peak + 1)) / 2, y: at(y, net.live[peak] ?? 0) };
    painter.circle(place.x, place.y, 4, { fill: this.theme.mark });
    const right = place.x < (x.from + x.to) / 2;
    const text = `peak ${units.bytes(net.live[peak] ?? 0)}, ${net.regime.layers[peak]?.name ?? ""}`;
    painter.text(text, place.x + (right ? 8 : -8), place.y - 6, {
      size: 11,
      fill: this.theme.mark,
      bold: true,
      anchor: right ? "start" : "end",
    });
    if (this.chosen === undefined) return;
    const [left, end] = [at(x, this.chosen), at(x, this.chosen + 1)];
    painter.rect(left, y.to, Math.max(1, end - left), y.from - y.to, { fill: this.theme.mark, alpha: 0.25 });
  }

  private describe(): void {
    const net = this.net!;
    const peak = net.peakAt;
    const place = this.chosen ?? peak;
    this.words.replaceChildren(
      h(
        "p",
        {},
        h("strong", {}, `Peak ${units.bytes(net.live[peak] ?? 0)}`),
        ` while ${net.regime.layers[peak]?.name} runs; with ${units.bytes(net.weightBytes)} of weights ${units.bytes(net.weightBytes + (net.live[peak] ?? 0))} for inference. Lifetimes are those of ${net.doc.lifetime_rule === "eager" ? "eager execution" : "the last use in the graph"}.`,
      ),
      h("h3", {}, `Alive while ${net.regime.layers[place]?.name ?? ""} runs${place === peak ? " (the peak)" : ""}`),
      alive(net, place, this.names),
    );
  }
}

/** What is alive while a layer runs, the largest first. */
function alive(net: Network, layer: number, names: string[]): HTMLElement {
  const held = net.regime.storages
    .map((life, i) => ({ life, name: names[i], size: net.value(life.bytes) }))
    .filter(({ life }) => Math.max(0, life.born) <= layer && life.freed >= layer)
    .sort((a, b) => b.size - a.size);
  const space = net.value(net.regime.layers[layer]?.workspace);
  const rows = held.map(({ name, size, life }) => [
    name,
    units.bytes(size),
    `to ${life.freed >= net.live.length - 1 ? "the end" : net.regime.layers[life.freed].name}`,
  ]);
  if (space) rows.push(["workspace of the operation", units.bytes(space), ""]);
  return h(
    "table",
    { class: "small" },
    h("thead", {}, h("tr", {}, ...["made by", "bytes", "alive"].map((t) => h("th", { scope: "col" }, t)))),
    h(
      "tbody",
      {},
      ...rows.slice(0, 40).map(([a, b, c]) => h("tr", {}, h("td", {}, a), h("td", { class: "number" }, b), h("td", {}, c))),
    ),
  );
}

function storageNames(net: Network): string[] {
  const names = net.regime.storages.map(() => "a constant");
  for (const t of net.regime.inputs) names[net.regime.tensors[t].storage] = "the network's input";
  for (const row of [...net.regime.layers].reverse()) {
    for (const t of row.outputs ?? []) {
      const { storage } = net.regime.tensors[t];
      if (storage >= 0 && names[storage] !== "the network's input") names[storage] = row.name;
    }
  }
  return names;
}

/** Steps at one height, joined: from, to, height. */
function runs(places: [number, number][]): [number, number, number][] {
  const found: [number, number, number][] = [];
  for (const [step, low] of places) {
    const last = found[found.length - 1];
    if (last && last[1] === step - 1 && last[2] === low) last[1] = step;
    else found.push([step, step, low]);
  }
  return found;
}
