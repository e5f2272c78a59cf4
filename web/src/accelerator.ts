// Layers by dataflows on an accelerator, as `lamina fit` finds them: a map of figures, and a layer's mapping as loops.

import { Chart } from "./chart";
import { heat, inkOn, Scale, type Theme } from "./colour";
import type { FitLayer } from "./data";
import { h, select } from "./dom";
import type { Network } from "./network";
import { clipped, type Painter } from "./painter";
import * as units from "./units";

const SHOWN: Record<string, { title: string; of(layer: FitLayer): number; text(v: number): string }> = {
  utilisation: { title: "utilisation", of: (l) => l.utilisation, text: units.percent },
  energy: { title: "energy", of: (l) => l.energy, text: (v) => units.si(v) },
  cycles: { title: "cycles", of: (l) => l.cycles, text: (v) => units.si(v) },
};
const LEFT = 190;
const TOP = 34;
const ROW = 17;

export interface Mapping {
  choose(layer: number): void;
  ask?(accelerator: string): void; // a served page finds mappings of other accelerators
}

export class Accelerator extends Chart {
  private net: Network | undefined;
  private chosen: number | undefined;
  private shown = "utilisation";
  private readonly controls = h("div", { class: "bar" });
  private readonly words = h("div", { class: "under" });
  readonly panel = h("div", { class: "panel-accelerator" });
  private readonly scroll: HTMLElement;
  private dataflow = "";

  constructor(
    private readonly accelerators: string[],
    private readonly acts: Mapping,
  ) {
    super("accelerator", "Layers by dataflows; the mapping of the chosen layer follows", {});
    this.scroll = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layers by dataflows" }, this.element);
    this.panel.append(this.controls, this.scroll, this.words);
    this.surface.canvas.addEventListener("click", (event) => {
      const names = this.dataflows();
      const row = Math.floor((event.offsetY - TOP) / ROW);
      const column = Math.floor(((event.offsetX - LEFT) / (this.surface.width - LEFT)) * names.length);
      const layer = this.layers()[row];
      if (!layer || !this.net) return;
      this.dataflow = names[Math.max(0, column)] ?? "";
      const place = this.net.byName.get(layer.name);
      if (place !== undefined) this.acts.choose(place);
    });
  }

  show(net: Network, theme: Theme, chosen: number | undefined): void {
    this.net = net;
    this.theme = theme;
    this.chosen = chosen;
    const fit = net.doc.fit;
    this.control();
    this.scroll.hidden = !fit;
    if (fit) this.surface.canvas.style.height = `${TOP + ROW * this.layers().length + 8}px`;
    this.describe();
    this.repaint();
  }

  protected get ready(): boolean {
    return this.net?.doc.fit !== undefined;
  }

  protected file(): string {
    return `${this.net?.doc.name}-${this.net?.doc.fit?.accelerator}`;
  }

  protected title(): string {
    const fit = this.net?.doc.fit;
    return `${this.net?.doc.name} on ${fit?.accelerator}: ${SHOWN[this.shown].title}`;
  }

  private dataflows(): string[] {
    return Object.keys(this.net?.doc.fit?.dataflows ?? {});
  }

  /** Those with multiply-accumulates, in order. */
  private layers(): FitLayer[] {
    const first = Object.values(this.net?.doc.fit?.dataflows ?? {})[0] ?? [];
    return first.filter((l) => l.macs);
  }

  private cell(name: string, dataflow: string): FitLayer | undefined {
    return this.net?.doc.fit?.dataflows[dataflow]?.find((l) => l.name === name);
  }

  protected rows(): (string | number)[][] {
    const rows: (string | number)[][] = [["layer", "dataflow", "utilisation", "cycles", "energy", "bound"]];
    for (const dataflow of this.dataflows()) {
      for (const l of this.net!.doc.fit!.dataflows[dataflow])
        rows.push([l.name, dataflow, l.utilisation, l.cycles, l.energy, l.bound]);
    }
    return rows;
  }

  protected draw(painter: Painter, width: number): void {
    const { theme } = this;
    const [names, layers, metric] = [this.dataflows(), this.layers(), SHOWN[this.shown]];
    const wide = (width - LEFT) / Math.max(1, names.length);
    const all = names.flatMap((d) => layers.map((l) => this.cell(l.name, d)).filter((l): l is FitLayer => !!l));
    const scale = new Scale(all.map(metric.of));
    names.forEach((name, k) => {
      painter.text(name, LEFT + (k + 0.5) * wide, TOP - 12, {
        size: 11.5,
        fill: theme.ink,
        anchor: "middle",
        bold: true,
      });
    });
    layers.forEach((layer, i) => {
      const y = TOP + i * ROW;
      const chosen = this.chosen !== undefined && this.net!.regime.layers[this.chosen]?.name === layer.name;
      painter.text(clipped(layer.name, LEFT - 10, 10.5), LEFT - 8, y + 12, {
        size: 10.5,
        fill: chosen ? theme.mark : theme.ink,
        anchor: "end",
        bold: chosen,
      });
      names.forEach((name, k) => {
        const found = this.cell(layer.name, name);
        if (!found) return;
        const fill = heat(scale.at(metric.of(found)), theme);
        painter.rect(LEFT + k * wide, y, wide - 1.5, ROW - 1.5, {
          fill,
          stroke: chosen ? theme.mark : undefined,
          width: 1.5,
        });
        if (wide > 52)
          painter.text(metric.text(metric.of(found)), LEFT + (k + 0.5) * wide, y + 12, {
            size: 10,
            fill: inkOn(fill),
            anchor: "middle",
          });
      });
    });
  }

  private control(): void {
    const fit = this.net!.doc.fit;
    const parts: (Node | string)[] = [];
    if (this.acts.ask) {
      const list = this.accelerators.map((name) => [name, name] as [string, string]);
      if (!fit) list.unshift(["", "choose an accelerator"]);
      parts.push(select("Accelerator", list, fit?.accelerator ?? "", (v) => v && this.acts.ask?.(v)));
    }
    if (fit) {
      parts.push(
        select(
          "Figure",
          Object.entries(SHOWN).map(([k, m]) => [k, m.title]),
          this.shown,
          (v) => {
            this.shown = v;
            this.repaint();
          },
        ),
      );
    }
    this.controls.replaceChildren(...parts);
  }

  private describe(): void {
    const { doc, regime } = this.net!;
    const { fit } = doc;
    if (!fit) {
      const command = h("code", {}, `lamina explore ${doc.name} --on eyeriss`);
      const how = this.acts.ask
        ? "Choose an accelerator: every layer is then mapped under each of its dataflows."
        : h("span", {}, "This page holds no mapping. ", command, " finds one for every layer.");
      this.words.replaceChildren(h("p", {}, how));
      return;
    }
    const name = this.chosen === undefined ? "" : (regime.layers[this.chosen]?.name ?? "");
    const found = this.cell(name, this.dataflow) ?? this.net!.fitOf(name);
    const about = h(
      "p",
      {},
      `On ${fit.accelerator}, each layer for the least ${fit.objective} (${fit.unit}), batch ${fit.batch}. Mappings are optimal within a declared space of tilings and loop orders.`,
    );
    if (!found?.nests.length) {
      this.words.replaceChildren(about, h("p", {}, "Choose a layer to see its mapping as loops."));
      return;
    }
    this.words.replaceChildren(
      about,
      h("h3", {}, `${name}: ${found.nests.map((n) => n.dataflow).join(", ")}`),
      h(
        "p",
        {},
        `${units.percent(found.utilisation)} of the array, ${units.si(found.cycles)} cycles, energy ${units.si(found.energy)}; bound by ${found.bound}.`,
      ),
      ...found.nests.map((nest) => h("pre", { tabindex: 0, "aria-label": "Mapping" }, nest.mapping.join("\n"))),
    );
  }
}
