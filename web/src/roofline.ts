// The roofline (Williams, Waterman and Patterson 2009): each layer under the roof of a machine that can be dragged.

import { type Axis, at, Plot, type Scale, valueAt } from "./chart";
import { KINDS, type Theme } from "./colour";
import type { Machine } from "./data";
import { button, h, select } from "./dom";
import { DTYPES, type Network } from "./network";
import type { Painter } from "./painter";
import * as units from "./units";

interface Dot {
  layer: number;
  x: number;
  y: number;
  radius: number;
}

export interface Roof {
  machine(name: string): void;
  move(peak: number, bandwidth: number): void;
  choose(layer: number): void;
  measure?(): void; // a served page times the network on its server
}

export class Roofline extends Plot {
  protected readonly room = { left: 84, right: 18, top: 28, bottom: 44 };
  private net: Network | undefined;
  private chosen: number | undefined;
  private dots: Dot[] = [];
  private held: "peak" | "bandwidth" | "ridge" | undefined;
  private readonly words = h("div", { class: "under" });
  private readonly controls = h("div", { class: "bar" });
  readonly panel = h("div", { class: "panel-roofline" });

  constructor(
    private readonly machines: Machine[],
    private readonly acts: Roof,
  ) {
    super("roofline", "Roofline: operations per second against operations per byte; the table has the figures", {});
    this.panel.append(this.controls, this.element, this.words);
    const { canvas } = this.surface;
    canvas.addEventListener("pointerdown", (event) => {
      this.held = this.grip(event.offsetX, event.offsetY);
      if (this.held) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.held) this.drag(event.offsetX, event.offsetY);
      else canvas.classList.toggle("grab", this.grip(event.offsetX, event.offsetY) !== undefined);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!this.held) this.pick(event.offsetX, event.offsetY);
      this.held = undefined;
    });
  }

  show(net: Network, theme: Theme, chosen: number | undefined): void {
    this.net = net;
    this.theme = theme;
    this.chosen = chosen;
    this.control();
    this.describe();
    this.repaint();
  }

  protected get ready(): boolean {
    return this.net !== undefined;
  }

  protected file(): string {
    return `${this.net?.doc.name}-roofline`;
  }

  protected title(): string {
    return `${this.net?.doc.name} under the roof of ${this.net?.machine.name}`;
  }

  protected rows(): (string | number)[][] {
    const net = this.net!;
    return [
      ["layer", "operations", "bytes", "operations per byte", "seconds at least"],
      ...net.facts.map((f, i) => [
        net.regime.layers[i].name,
        f.operations,
        f.read + f.written,
        f.operations / (f.read + f.written || 1),
        f.seconds,
      ]),
    ];
  }

  protected scales(): { x: Scale; y: Scale } {
    const net = this.net!;
    const ridge = net.peak / net.machine.bandwidth;
    const dense = net.facts.map((f) => f.operations / (f.read + f.written || 1)).filter((v) => v > 0);
    const low =
      10 **
      Math.floor(Math.log10(Math.min(0.1, ridge / 10, ...(dense.length ? [dense.reduce((a, b) => Math.min(a, b))] : []))));
    const high =
      10 ** Math.ceil(Math.log10(Math.max(10 * ridge, ...(dense.length ? [dense.reduce((a, b) => Math.max(a, b))] : []))));
    const x = {
      low: Math.max(low, high / 1e9),
      high,
      log: true,
      title: "operations per byte",
      text: units.significant,
    };
    const top = 10 ** Math.ceil(Math.log10(net.peak * 2));
    const y = {
      low: Math.min(top / 1e5, Math.max(top / 1e7, x.low * net.machine.bandwidth)),
      high: top,
      log: true,
      title: "operations per second",
      text: (v: number) => units.si(v, "FLOP/s"),
    };
    return { x, y };
  }

  protected plot(painter: Painter, x: Axis, y: Axis): void {
    const net = this.net!;
    const { theme } = this;
    const { bandwidth } = net.machine;
    const ridge = net.peak / bandwidth;
    const start = Math.max(x.low, y.low / bandwidth);
    const roof = [
      [start, start * bandwidth],
      [ridge, net.peak],
      [x.high, net.peak],
    ].map(([a, b]) => ({ x: at(x, a), y: at(y, b) }));
    painter.path(roof, { stroke: theme.ink, width: 2.2 });
    painter.circle(roof[1].x, roof[1].y, 6, { fill: theme.paper, stroke: theme.ink, width: 2.2 });
    painter.text(units.si(net.peak, "FLOP/s"), roof[2].x, roof[2].y - 7, {
      size: 11,
      fill: theme.ink,
      anchor: "end",
      bold: true,
    });
    painter.text(`${units.bytes(bandwidth)}/s`, roof[0].x + 38, roof[0].y - 6, { size: 11, fill: theme.ink, bold: true });
    this.dots = this.places(x, y);
    for (const dot of this.dots) {
      const chosen = dot.layer === this.chosen;
      const fill = KINDS[net.regime.layers[dot.layer].kind] ?? KINDS.other;
      painter.circle(dot.x, dot.y, dot.radius, {
        fill,
        stroke: chosen ? theme.mark : theme.paper,
        width: chosen ? 3 : 0.8,
        alpha: chosen ? 1 : 0.8,
      });
    }
  }

  /** The disc's area is the layer's share of the predicted time. */
  private places(x: Axis, y: Axis): Dot[] {
    const net = this.net!;
    const whole = net.total.seconds || 1;
    const found: Dot[] = [];
    net.facts.forEach((f, layer) => {
      const moved = f.read + f.written;
      if (!moved || !f.operations) return;
      const dense = f.operations / moved;
      const attained = Math.min(net.peak, dense * net.machine.bandwidth);
      if (attained < y.low) return;
      found.push({ layer, x: at(x, dense), y: at(y, attained), radius: 2.5 + 26 * Math.sqrt(f.seconds / whole) });
    });
    return found.sort((a, b) => b.radius - a.radius);
  }

  private grip(px: number, py: number): "peak" | "bandwidth" | "ridge" | undefined {
    if (!this.net) return undefined;
    const { x, y } = this.axes();
    const { bandwidth } = this.net.machine;
    const [rx, ry] = [at(x, this.net.peak / bandwidth), at(y, this.net.peak)];
    if (Math.hypot(px - rx, py - ry) < 12) return "ridge";
    if (px > rx && Math.abs(py - ry) < 7) return "peak";
    if (px < rx && px > x.from && Math.abs(py - at(y, valueAt(x, px) * bandwidth)) < 8) return "bandwidth";
    return undefined;
  }

  private drag(px: number, py: number): void {
    const net = this.net!;
    const { x, y } = this.axes();
    const [dense, speed] = [valueAt(x, px), valueAt(y, py)];
    const peak = this.held === "bandwidth" ? net.peak : speed;
    const bandwidth = this.held === "peak" ? net.machine.bandwidth : speed / dense;
    if (peak > 0 && bandwidth > 0 && Number.isFinite(peak + bandwidth)) this.acts.move(rounded(peak), rounded(bandwidth));
  }

  private pick(px: number, py: number): void {
    const hit = [...this.dots].reverse().find((d) => Math.hypot(d.x - px, d.y - py) <= d.radius + 2);
    if (hit) this.acts.choose(hit.layer);
  }

  private control(): void {
    const net = this.net!;
    if (this.controls.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement) return;
    const dtype = DTYPES[net.dtype]?.label ?? net.dtype;
    const field = (label: string, value: number, unit: number, change: (v: number) => void): HTMLElement => {
      const input = h("input", {
        type: "number",
        min: 0,
        step: "any",
        value: Number((value / unit).toPrecision(5)),
        "aria-label": label,
      });
      input.addEventListener("change", () => Number(input.value) > 0 && change(Number(input.value) * unit));
      return h("label", {}, label, input);
    };
    this.controls.replaceChildren(
      select(
        "Machine",
        this.machines.map((m) => [m.name, m.name]),
        net.machine.name,
        (v) => this.acts.machine(v),
      ),
      field(`TFLOP/s (${dtype})`, net.peak, 1e12, (v) => this.acts.move(v, net.machine.bandwidth)),
      field("GB/s", net.machine.bandwidth, 1e9, (v) => this.acts.move(net.peak, v)),
      this.acts.measure ? button("measure here", "measure here: each module's time on the server", this.acts.measure) : "",
    );
  }

  private describe(): void {
    const net = this.net!;
    const memory = net.facts.reduce((sum, f) => {
      const moved = (f.read + f.written) / net.machine.bandwidth;
      return sum + (moved > f.operations / net.peak ? f.seconds : 0);
    }, 0);
    const whole = net.total.seconds;
    this.words.replaceChildren(
      h(
        "p",
        {},
        h("strong", {}, `At least ${units.seconds(whole)}`),
        `, ${units.percent(memory / (whole || 1))} of it waiting for memory. Every input, weight and output is moved once; the area of a disc is its share of that time. Drag the roof, its slope or its corner.`,
      ),
      net.total.measured === undefined
        ? ""
        : h("p", {}, `Measured here: ${units.seconds(net.total.measured)} in modules (${net.doc.measured?.how}).`),
      net.machine.about ? h("p", { class: "sub" }, net.machine.about) : "",
    );
  }
}

const rounded = (value: number): number => Number(value.toPrecision(4));
