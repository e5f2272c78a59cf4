// The layers as a table: sortable, and only the rows in sight are elements, so that ten thousand are no burden.

import { h } from "./dom";
import { csvOf, save } from "./export";
import { intensity, type Network } from "./network";
import * as units from "./units";

interface Column {
  key: string;
  title: string;
  number: boolean;
  of(net: Network, layer: number): string | number;
  text(value: number): string;
}

const plain = (v: number): string => (v ? units.count(v) : "");
const bytes = (v: number): string => (v ? units.bytes(v) : "");

const COLUMNS: Column[] = [
  { key: "layer", title: "layer", number: false, of: (net, i) => net.regime.layers[i].name, text: String },
  { key: "kind", title: "kind", number: false, of: (net, i) => net.regime.layers[i].kind, text: String },
  { key: "output", title: "output", number: false, of: (net, i) => outputText(net, i), text: String },
  { key: "parameters", title: "parameters", number: true, of: (net, i) => net.facts[i].parameters, text: plain },
  { key: "macs", title: "MACs", number: true, of: (net, i) => net.facts[i].macs, text: plain },
  {
    key: "share",
    title: "of MACs",
    number: true,
    of: (net, i) => net.facts[i].macs / (net.total.macs || 1),
    text: (v) => (v ? units.percent(v) : ""),
  },
  { key: "read", title: "read", number: true, of: (net, i) => net.facts[i].read, text: bytes },
  { key: "written", title: "written", number: true, of: (net, i) => net.facts[i].written, text: bytes },
  {
    key: "intensity",
    title: "FLOPs/byte",
    number: true,
    of: (net, i) => intensity(net.facts[i]),
    text: (v) => (v ? units.significant(v) : ""),
  },
  { key: "saved", title: "saved", number: true, of: (net, i) => net.facts[i].saved, text: bytes },
  { key: "live", title: "live", number: true, of: (net, i) => net.live[i], text: bytes },
  {
    key: "time",
    title: "time",
    number: true,
    of: (net, i) => net.facts[i].seconds,
    text: (v) => (v ? units.seconds(v) : ""),
  },
];

export function outputText(net: Network, layer: number): string {
  return (net.regime.layers[layer].outputs ?? []).map((t) => units.shape(net.shapeOf(t))).join(", ");
}

const ROW = 26; // pixels, as the style sheet has it
const SPARE = 12; // rows above and below those in sight

export class Table {
  readonly element: HTMLElement;
  private readonly body = h("tbody");
  private readonly head = h("tr");
  private readonly box: HTMLElement;
  private readonly grid: HTMLTableElement;
  private net: Network | undefined;
  private order: number[] = [];
  private sort = "";
  private chosen: number | undefined;
  private active: ReadonlySet<number> | undefined;

  constructor(
    private readonly choose: (layer: number) => void,
    private readonly sorted: (key: string) => void,
  ) {
    this.grid = h(
      "table",
      { class: "layers" },
      h("caption", { class: "unseen" }, "Layers"),
      h("thead", {}, this.head),
      this.body,
    );
    this.box = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Layers" }, this.grid);
    this.box.addEventListener("scroll", () => this.fill());
    new ResizeObserver(() => this.fill()).observe(this.box);
    this.element = h(
      "div",
      { class: "panel-table" },
      h("div", { class: "bar" }, h("button", { type: "button", onclick: () => this.csv() }, "CSV")),
      this.box,
    );
  }

  show(net: Network, sort: string, chosen: number | undefined, active: ReadonlySet<number> | undefined): void {
    this.chosen = chosen;
    this.active = active;
    if (net !== this.net || sort !== this.sort) {
      this.net = net;
      this.sort = sort;
      this.reorder();
      this.heading();
    }
    this.fill();
  }

  /** Bring a layer's row into sight. */
  reveal(layer: number): void {
    const place = this.order.indexOf(layer);
    const top = place * ROW;
    const height = this.box.clientHeight - 40;
    if (top < this.box.scrollTop || top > this.box.scrollTop + height - ROW) this.box.scrollTop = Math.max(0, top - height / 2);
  }

  private reorder(): void {
    const net = this.net!;
    this.order = net.regime.layers.map((_, i) => i);
    const descending = this.sort.startsWith("-");
    const column = COLUMNS.find((c) => c.key === this.sort.replace("-", ""));
    if (!column) return;
    const keys = this.order.map((i) => column.of(net, i));
    const sign = descending ? -1 : 1;
    this.order.sort((a, b) => {
      const [x, y] = [keys[a], keys[b]];
      const least =
        typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
      return sign * least || a - b;
    });
  }

  private heading(): void {
    this.head.replaceChildren(
      ...COLUMNS.map((column) => {
        const [up, down] = [this.sort === column.key, this.sort === `-${column.key}`];
        const first = column.number ? `-${column.key}` : column.key;
        const next = up || down ? (this.sort === first ? (first.startsWith("-") ? column.key : `-${column.key}`) : "") : first;
        return h(
          "th",
          {
            scope: "col",
            class: column.number ? "number" : undefined,
            "aria-sort": up ? "ascending" : down ? "descending" : undefined,
          },
          h("button", { type: "button", onclick: () => this.sorted(next) }, column.title, up ? " ▲" : down ? " ▼" : ""),
        );
      }),
    );
  }

  private fill(): void {
    const net = this.net;
    if (!net) return;
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - SPARE);
    const last = Math.min(this.order.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + SPARE);
    this.grid.setAttribute("aria-rowcount", String(this.order.length + 1));
    const rows = this.order.slice(first, last).map((layer, k) => this.row(net, layer, first + k));
    this.body.replaceChildren(space(first), ...rows, space(this.order.length - last));
  }

  private row(net: Network, layer: number, place: number): HTMLElement {
    const cells = COLUMNS.map((column) => {
      const value = column.of(net, layer);
      const text = typeof value === "number" ? column.text(value) : value;
      if (column.key === "layer") {
        return h("th", { scope: "row" }, h("button", { type: "button", onclick: () => this.choose(layer) }, text));
      }
      return h("td", { class: column.number ? "number" : undefined }, text);
    });
    const classes = [layer === this.chosen && "chosen", this.active?.has(layer) && "within"].filter(Boolean).join(" ");
    return h("tr", { "aria-rowindex": place + 2, class: classes || undefined, onclick: () => this.choose(layer) }, ...cells);
  }

  private csv(): void {
    const net = this.net!;
    const rows = this.order.map((layer) => COLUMNS.map((column) => column.of(net, layer)));
    save(`${net.doc.name}-layers.csv`, new Blob([csvOf([COLUMNS.map((c) => c.title), ...rows])], { type: "text/csv" }));
  }
}

/** The height of rows that are not there. */
function space(rows: number): HTMLElement {
  const row = h("tr", { class: "space", "aria-hidden": "true" });
  const cell = h("td", { colspan: COLUMNS.length });
  cell.style.height = `${rows * ROW}px`;
  row.append(cell);
  return row;
}
