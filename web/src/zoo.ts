// The map of the zoo: accuracy against MACs, parameters as area, by family and year.

import { type Axis, at, Plot, type Scale } from "./chart";
import type { Theme } from "./colour";
import type { ZooPoint } from "./data";
import { h } from "./dom";
import type { Painter } from "./painter";
import * as units from "./units";

const COLOURS = [
  "#2f7fc1",
  "#d55e00",
  "#009e73",
  "#c0609a",
  "#a87900",
  "#8068c8",
  "#7f7f7f",
  "#2a93a5",
  "#b5544f",
  "#6f8f2f",
  "#e58ab0",
  "#5b6bc0",
];

export interface Zoo {
  open(name: string): void;
  year(year: number): void;
}

export class ZooMap extends Plot {
  protected readonly room = { left: 56, right: 20, top: 28, bottom: 44 };
  private year = 0;
  private data: string;
  private current = "";
  private over: ZooPoint | undefined;
  private readonly controls = h("div", { class: "bar" });
  private readonly key = h("div", { class: "key" });
  private readonly words = h("div", { class: "under", "aria-live": "polite" });
  private readonly list = h("div", { class: "under" });
  readonly panel = h("div", { class: "panel-zoo" });
  private shownAs = "";

  constructor(
    private readonly points: ZooPoint[],
    private readonly acts: Zoo,
    private readonly holds: (name: string) => boolean,
  ) {
    super("zoo", "Published top-1 accuracy against MACs; the table below has the figures", {});
    const count = (name: string): number => points.filter((p) => p.data === name).length;
    this.data = this.sets().sort((a, b) => count(b) - count(a))[0] ?? "";
    this.panel.append(this.controls, this.key, this.element, this.words, this.list);
    const { canvas } = this.surface;
    canvas.addEventListener("pointermove", (event) => {
      const hit = this.hit(event.offsetX, event.offsetY);
      canvas.classList.toggle("grab", hit !== undefined);
      if (hit === this.over) return;
      this.over = hit;
      this.say();
      this.repaint();
    });
    canvas.addEventListener("click", (event) => {
      const hit = this.hit(event.offsetX, event.offsetY);
      if (hit) this.acts.open(hit.name);
    });
  }

  show(theme: Theme, year: number, current: string): void {
    this.theme = theme;
    this.year = year;
    this.current = current;
    this.control();
    this.say();
    this.repaint();
  }

  protected get ready(): boolean {
    return this.points.length > 0;
  }

  protected file(): string {
    return "zoo";
  }

  protected title(): string {
    return `Published top-1 accuracy on ${this.data} against MACs`;
  }

  private get shown(): ZooPoint[] {
    const some = this.points.filter((p) => p.data === this.data && (!this.year || p.year <= this.year));
    return some.sort((a, b) => b.parameters - a.parameters);
  }

  protected rows(): (string | number)[][] {
    const rows = this.shown.map((p) => [p.name, p.family, p.year, p.macs, p.parameters, p.top1]);
    return [["network", "family", "year", "macs", "parameters", "top1"], ...rows];
  }

  private sets(): string[] {
    return [...new Set(this.points.map((p) => p.data))];
  }

  private families(): string[] {
    return [...new Set(this.points.map((p) => p.family))];
  }

  private colour(family: string): string {
    return COLOURS[this.families().indexOf(family) % COLOURS.length];
  }

  protected scales(): { x: Scale; y: Scale } {
    const all = this.points.filter((p) => p.data === this.data);
    const macs = all.map((p) => p.macs);
    const top1 = all.map((p) => p.top1);
    const x = {
      low: Math.min(...macs) / 1.6,
      high: Math.max(...macs) * 1.6,
      log: true,
      title: "MACs",
      text: (v: number) => units.si(v),
    };
    const [low, high] = [Math.min(...top1), Math.max(...top1)];
    const y = {
      low: low - 0.08 * (high - low) - 0.2,
      high: high + 0.08 * (high - low) + 0.2,
      log: false,
      title: "top-1, %",
      text: units.significant,
    };
    return { x, y };
  }

  private place(p: ZooPoint, x: Axis, y: Axis): { x: number; y: number; r: number } {
    const most = Math.max(...this.points.map((q) => q.parameters));
    return { x: at(x, p.macs), y: at(y, p.top1), r: Math.max(3, 26 * Math.sqrt(p.parameters / most)) };
  }

  protected plot(painter: Painter, x: Axis, y: Axis): void {
    const { theme } = this;
    for (const p of this.shown) {
      const c = this.place(p, x, y);
      const chosen = p.name === this.current || p === this.over;
      painter.circle(c.x, c.y, c.r, { fill: this.colour(p.family), alpha: 0.6 });
      painter.circle(c.x, c.y, c.r, { stroke: chosen ? theme.mark : theme.paper, width: chosen ? 2.5 : 0.8 });
    }
    const placed: { x: number; y: number }[] = [];
    for (const p of this.shown) {
      const c = this.place(p, x, y);
      const chosen = p.name === this.current || p === this.over;
      const near = placed.some((q) => Math.abs(q.x - c.x) < 6.2 * p.name.length && Math.abs(q.y - c.y) < 13);
      if (near && !chosen) continue;
      placed.push(c);
      const left = c.x > x.to - 110;
      painter.text(p.name, c.x + (left ? -1 : 1) * (c.r + 3), c.y + 3.5, {
        size: 10.5,
        fill: chosen ? theme.mark : theme.ink,
        bold: chosen,
        anchor: left ? "end" : "start",
      });
    }
  }

  private hit(px: number, py: number): ZooPoint | undefined {
    if (!this.ready) return undefined;
    const { x, y } = this.axes();
    return [...this.shown].reverse().find((p) => {
      const c = this.place(p, x, y);
      return Math.hypot(c.x - px, c.y - py) <= c.r + 2;
    });
  }

  private control(): void {
    const years = this.points.map((p) => p.year);
    const [first, last] = [Math.min(...years), Math.max(...years)];
    const signature = `${this.data} ${this.year}`;
    if (signature === this.shownAs) return;
    this.shownAs = signature;
    if (!this.controls.firstChild) {
      const range = h("input", {
        type: "range",
        min: first,
        max: last,
        value: this.year || last,
        "aria-label": "Until the year",
      });
      const text = h("output", {}, String(this.year || last));
      range.addEventListener("input", () => {
        text.textContent = range.value;
        this.acts.year(Number(range.value) === last ? 0 : Number(range.value));
      });
      this.controls.append(
        ...this.sets().map((name) => h("button", { type: "button", "data-set": name, onclick: () => this.choose(name) }, name)),
        h("label", {}, "until", range, text),
      );
    }
    for (const item of this.controls.querySelectorAll("button"))
      item.setAttribute("aria-pressed", String(item.dataset.set === this.data));
    const families = [...new Set(this.shown.map((p) => p.family))].sort();
    this.key.replaceChildren(
      ...families.map((family) => {
        const dot = h("span", { class: "dot", "aria-hidden": "true" });
        dot.style.background = this.colour(family);
        return h("span", {}, dot, family);
      }),
    );
    this.list.replaceChildren(this.table());
  }

  private choose(data: string): void {
    this.data = data;
    this.control();
    this.repaint();
  }

  private say(): void {
    const p = this.over;
    const text = p
      ? `${p.name} (${p.year}): ${units.significant(p.top1)} % top-1, ${units.si(p.macs, "MACs")}, ${units.si(p.parameters)} parameters${this.holds(p.name) ? "" : `; lamina explore ${p.name}`}`
      : "The area is the number of parameters. Choose a network to open it.";
    this.words.replaceChildren(h("p", {}, text));
  }

  private table(): HTMLElement {
    const rows = [...this.shown].sort((a, b) => b.top1 - a.top1);
    return h(
      "table",
      { class: "small" },
      h(
        "thead",
        {},
        h("tr", {}, ...["network", "year", "top-1", "MACs", "parameters"].map((t) => h("th", { scope: "col" }, t))),
      ),
      h(
        "tbody",
        {},
        ...rows.map((p) =>
          h(
            "tr",
            {},
            h(
              "td",
              {},
              this.holds(p.name) ? h("button", { type: "button", onclick: () => this.acts.open(p.name) }, p.name) : p.name,
            ),
            h("td", { class: "number" }, String(p.year)),
            h("td", { class: "number" }, `${units.significant(p.top1)} %`),
            h("td", { class: "number" }, units.si(p.macs)),
            h("td", { class: "number" }, units.si(p.parameters)),
          ),
        ),
      ),
    );
  }
}
