// The page: its state, and everything that shows it.

import { Accelerator } from "./accelerator";
import { DARK, LIGHT, type Theme } from "./colour";
import { compare } from "./compare";
import { Search } from "./controls";
import type { Change, Comparison, Machine, NetworkDocument, Page } from "./data";
import { detail } from "./detail";
import { h } from "./dom";
import { keysHelp } from "./graph";
import { Header } from "./header";
import { LivePanel } from "./live";
import { Timeline } from "./memory";
import { groupItem, groupOf, type Item, isGroup, Network, regimeOf } from "./network";
import { Roofline } from "./roofline";
import { key, Refused, Source } from "./source";
import { Stage } from "./stage";
import { read, START, type State, write } from "./state";
import { figures } from "./strip";
import { Table } from "./table";
import { Tabs } from "./tabs";
import * as units from "./units";
import { countVisible, MOST, opening, unfolded } from "./visible";
import { ZooMap } from "./zoo";

const REST = 350; // milliseconds after which a slider is taken to rest
const ANY: Machine = { name: "a machine", about: "", peak: { fp32: 1e13 }, bandwidth: 1e12 };

class Explorer {
  private readonly source: Source;
  private state: State;
  private doc!: NetworkDocument;
  private net!: Network;
  private other: Network | undefined;
  private rest = 0;
  private still = 0;
  private pending = 0;
  private readonly dark = matchMedia("(prefers-color-scheme: dark)");
  private readonly header: Header;
  private readonly strip = h("div", { class: "strip" });
  private readonly notice = h("div", { class: "notice", role: "status" });
  private readonly stage: Stage;
  private readonly search = new Search((item) => this.choose(item, true));
  private readonly about = h("div");
  private readonly difference = h("div");
  private readonly table: Table;
  private readonly timeline: Timeline;
  private readonly roofline: Roofline;
  private readonly accelerator: Accelerator;
  private readonly zoo: ZooMap;
  private readonly live: LivePanel | undefined;
  private readonly tabs: Tabs;

  constructor(
    private readonly page: Page,
    root: HTMLElement,
  ) {
    this.source = new Source(page);
    this.state = read(location.hash);
    this.header = new Header(page, this.search, {
      change: (change) => this.update(change),
      open: (name) => this.open(name),
      set: (name, value) => void this.set(name, value),
    });
    this.stage = new Stage(this.actions(false), this.actions(true));
    this.stage.first.go(this.state.view);
    const pick = (layer: number): void => this.choose(layer, true);
    this.table = new Table(pick, (sort) => this.update({ sort }));
    this.timeline = new Timeline(pick);
    this.roofline = new Roofline(page.machines, {
      machine: (machine) => this.update({ machine, peak: 0, bandwidth: 0 }),
      move: (peak, bandwidth) => this.update({ peak, bandwidth }),
      choose: pick,
      measure: page.served ? (): void => void this.measure() : undefined,
    });
    const ask = page.served ? (on: string): void => void this.map(on) : undefined;
    this.accelerator = new Accelerator(page.accelerators, { choose: pick, ask });
    const holds = (name: string): boolean => page.served || page.networks.some((doc) => doc.name === name);
    this.zoo = new ZooMap(page.zoo, { open: (net) => this.open(net), year: (year) => this.update({ year }) }, holds);
    this.live = page.served ? new LivePanel() : undefined;
    this.tabs = new Tabs(
      [
        ["layer", "Layer", this.about],
        ["table", "Table", this.table.element],
        ["memory", "Memory", this.timeline.panel],
        ["roofline", "Roofline", this.roofline.panel],
        ["accelerator", "Accelerator", this.accelerator.panel],
        ["compare", "Difference", this.difference],
        ["zoo", "Zoo", this.zoo.panel],
        ...(this.live ? [["live", "Live", this.live.element] as [string, string, HTMLElement]] : []),
      ],
      (tab) => this.update({ tab }),
    );
    this.build(root);
    void this.load();
  }

  private build(root: HTMLElement): void {
    const main = h(
      "main",
      {},
      h("div", { class: "left" }, this.notice, this.stage.element),
      h("div", { class: "right" }, this.tabs.element),
    );
    root.replaceChildren(this.header.element, this.strip, main, keysHelp());
    if (this.page.served)
      root.append(h("datalist", { id: "networks" }, ...this.page.zoo.map((p) => h("option", { value: p.name }))));
    addEventListener("hashchange", () => {
      if (location.hash !== this.address) {
        this.state = read(location.hash);
        this.stage.first.go(this.state.view);
        this.header.forget();
        void this.load();
      }
    });
    this.dark.addEventListener("change", () => this.render());
    document.addEventListener("keydown", (event) => {
      const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
      if (event.key === "/" && !typing) {
        event.preventDefault();
        this.search.focus();
      }
    });
  }

  private address = "";

  private actions(second: boolean) {
    const net = (): Network => (second && this.other ? this.other : this.net);
    return {
      choose: (item: Item) => this.choose(item, false, net()),
      toggle: (item: Item) => this.toggle(net().name(item)),
      openAll: () => this.openAll(net()),
      closeAll: () => this.update({ open: [] }),
      toggleViews: () => this.update({ views: !this.state.views }),
      moved: () => {
        clearTimeout(this.still);
        if (!second) this.still = window.setTimeout(() => this.remember(), REST);
      },
    };
  }

  /** What is shown stands in the address. */
  private remember(): void {
    this.state.view = this.stage.first.view;
    this.address = write(this.state);
    if (location.hash !== this.address) history.replaceState(null, "", this.address);
  }

  // ---- what is shown -----------------------------------------------------------------------------------------------

  private get theme(): Theme {
    const { theme } = this.state;
    return theme === "dark" || (theme === "auto" && this.dark.matches) ? DARK : LIGHT;
  }

  private get machine(): Machine {
    const found = this.page.machines.find((m) => m.name === this.state.machine) ?? this.page.machines[0] ?? ANY;
    const { peak, bandwidth } = this.state;
    if (!peak && !bandwidth) return found;
    const peaks = peak ? Object.fromEntries(["fp64", "fp32", "bf16", "fp16", "int8"].map((k) => [k, peak])) : found.peak;
    return { name: `${found.name}, changed`, about: "", peak: peaks, bandwidth: bandwidth || found.bandwidth };
  }

  private network(doc: NetworkDocument): Network {
    const batch = this.state.batch || doc.batch;
    const dtype = this.state.dtype || doc.dtype;
    return regimeOf(doc, batch, dtype)
      ? new Network(doc, batch, dtype, this.machine)
      : new Network(doc, doc.batch, doc.dtype, this.machine);
  }

  /** The documents of the state, from the server where they are not at hand; then everything is drawn. */
  private async load(): Promise<void> {
    const ticket = ++this.pending;
    const name = this.state.net || this.page.networks[0]?.name || "";
    const beside = this.state.beside;
    try {
      const now = this.source.now(name, this.state.changes);
      const doc = now ?? (await this.source.network(name, this.state.changes));
      const second = beside ? (this.source.now(beside, {}) ?? (await this.source.network(beside, {}))) : undefined;
      if (ticket !== this.pending) return;
      if (this.doc?.name !== doc.name) this.say(greeting(doc));
      this.doc = doc;
      this.net = this.network(doc);
      this.other = second && this.network(second);
      if (second && !this.source.comparison(key(name, this.state.changes), beside)) {
        await this.source.compare([name, this.state.changes], [beside, {}]);
        if (ticket !== this.pending) return;
      }
      this.render();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (ticket !== this.pending) return;
      this.say(error.message, true);
      if (!this.doc && this.page.networks.length) {
        this.state = { ...START, theme: this.state.theme };
        void this.load().then(() => this.say(error.message, true));
      }
    }
  }

  private say(text: string, wrong = false): void {
    this.notice.textContent = text;
    this.notice.classList.toggle("wrong", wrong);
  }

  private update(change: Partial<State>): void {
    this.state = { ...this.state, ...change };
    if (!this.doc) return;
    if (["net", "beside", "changes"].some((k) => k in change)) {
      void this.load();
      return;
    }
    if (["batch", "dtype", "machine", "peak", "bandwidth"].some((k) => k in change)) {
      this.net = this.network(this.doc);
      this.other = this.other && this.network(this.other.doc);
    }
    this.render();
  }

  private open(net: string): void {
    this.say("");
    this.update({
      net,
      changes: {},
      open: undefined,
      view: "",
      chosen: "",
      beside: this.state.beside === net ? "" : this.state.beside,
    });
  }

  private map(on: string): Promise<void> {
    const { doc, net } = this;
    return this.add(`mapping ${doc.name} on ${on} …`, async () => {
      doc.fit = await this.source.fit(doc.name, this.state.changes, on, net.batch);
    });
  }

  private measure(): Promise<void> {
    const { doc } = this;
    return this.add(`measuring ${doc.name} …`, async () => {
      doc.measured = await this.source.measure(doc.name);
    });
  }

  /** What the server adds to the document; it takes a while. */
  private async add(text: string, work: () => Promise<void>): Promise<void> {
    this.say(text);
    try {
      await work();
      this.say("");
      this.net = this.network(this.doc);
      this.header.forget();
      this.render();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.say(error.message, true);
    }
  }

  private get comparison(): Comparison | undefined {
    return this.other && this.source.comparison(key(this.doc.name, this.state.changes), this.other.doc.name);
  }

  private get openGroups(): Set<string> {
    return this.state.open === undefined ? opening(this.net) : new Set(this.state.open);
  }

  private choose(item: Item, reveal: boolean, net = this.net): void {
    const chosen = net.name(item);
    const change: Partial<State> = { chosen };
    if (reveal) {
      const open = this.openGroups;
      const before = open.size;
      for (let above = net.parentOf(item); above > 0; above = net.regime.groups[above].parent)
        open.add(net.name(groupItem(above)));
      if (open.size > before) change.open = [...open];
    }
    this.update(change);
    const here = this.net.find(chosen);
    if (reveal && here !== undefined) this.stage.first.reveal(here);
    if (here !== undefined && !isGroup(here)) this.table.reveal(here);
    const there = this.other?.find(chosen);
    if (there !== undefined) this.stage.second.reveal(there);
  }

  private toggle(name: string): void {
    const open = this.openGroups;
    if (!open.delete(name)) open.add(name);
    this.update({ open: [...open] });
  }

  private openAll(net: Network): void {
    const { open, nodes } = unfolded(net, this.state.views);
    const every = new Set(net.regime.groups.slice(1).map((_, i) => net.name(groupItem(i + 1))));
    const all = countVisible(net, every, this.state.views);
    if (nodes < all)
      this.say(
        `${net.doc.name} has ${units.count(all)} nodes unfolded; ${units.count(MOST)} are drawn at once, so ${units.count(nodes)} are shown, and the rest is folded.`,
      );
    this.update({ open });
  }

  // ---- drawing it -----------------------------------------------------------------------------------------------------

  private render(): void {
    const { theme } = this;
    document.documentElement.dataset.theme = theme.dark ? "dark" : "light";
    document.title = `${this.doc.name} · Lamina`;
    this.header.show(this.doc, this.net, this.state);
    this.strip.replaceChildren(...figures(this.net, this.other));
    const item = this.net.find(this.state.chosen);
    this.stage.show({
      net: this.net,
      other: this.other,
      found: this.comparison,
      open: this.openGroups,
      views: this.state.views,
      heat: this.state.heat,
      chosen: this.state.chosen,
      theme,
    });
    this.remember();
    this.search.show(this.net);
    this.tabs.show(this.state.tab);
    this.panel(item);
  }

  private panel(item: Item | undefined): void {
    const { net, theme } = this;
    const layer = item !== undefined && !isGroup(item) ? item : undefined;
    const within = item !== undefined && isGroup(item) ? new Set(net.layersUnder(groupOf(item))) : undefined;
    const panels: Record<string, () => void> = {
      table: () => this.table.show(net, this.state.sort, layer, within),
      memory: () => this.timeline.show(net, theme, layer),
      roofline: () => this.roofline.show(net, theme, layer),
      accelerator: () => this.accelerator.show(net, theme, layer),
      compare: () => {
        const choose = (c: Change): void => this.chooseChange(c.before, c.after);
        this.difference.replaceChildren(compare(net, this.other, this.comparison, this.state.chosen, choose));
      },
      zoo: () => this.zoo.show(theme, this.state.year, this.doc.name),
      live: () => this.live?.show(net, layer, theme),
      layer: () => this.about.replaceChildren(this.detail(item)),
    };
    (panels[this.state.tab] ?? panels.layer)();
  }

  /** Of what is chosen: in the first network, else in the second. */
  private detail(item: Item | undefined): HTMLElement {
    const theirs = item === undefined ? this.other?.find(this.state.chosen) : undefined;
    if (theirs !== undefined) return detail(this.other!, theirs, (i) => this.choose(i, true, this.other));
    return detail(this.net, item ?? groupItem(0), (i) => this.choose(i, true));
  }

  private chooseChange(before: string, after: string): void {
    const mine = this.net.find(before);
    const theirs = this.other?.find(after);
    if (mine !== undefined) this.choose(mine, true);
    else if (theirs !== undefined) this.choose(theirs, true, this.other);
    if (theirs !== undefined) this.stage.second.reveal(theirs);
  }

  /** One field of the configuration, or a size of the input; "" is as it was. The page follows each move of a slider with one
   * trace, and asks for the formulas of batch and type when it rests. */
  private async set(name: string, value: string): Promise<void> {
    const changes = { ...this.state.changes };
    if (value === "") delete changes[name];
    else changes[name] = value;
    this.state = { ...this.state, changes };
    clearTimeout(this.rest);
    this.rest = window.setTimeout(() => void this.load(), REST);
    const ticket = ++this.pending;
    const { batch, dtype } = this.net;
    try {
      const doc = await this.source.quick(this.doc.name, changes, batch, dtype);
      if (ticket !== this.pending) return;
      this.doc = { ...doc, dtype };
      this.net = new Network(this.doc, batch, dtype, this.machine);
      this.say("");
      this.render();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      clearTimeout(this.rest);
      if (ticket === this.pending) this.say(error.message, true);
    }
  }
}

function greeting(doc: NetworkDocument): string {
  const layers = doc.regimes[0].layers.length;
  return layers > MOST ? `${units.count(layers)} layers: opened folded.` : "";
}

const data = document.getElementById("data");
const root = document.getElementById("explorer");
if (data && root) {
  const explorer = new Explorer(JSON.parse(data.textContent ?? "{}") as Page, root);
  Object.assign(window, { lamina: explorer });
}
