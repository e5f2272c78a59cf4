// The graph, or two beside each other, with their colours and the legend.

import type { Theme } from "./colour";
import { marks } from "./compare";
import type { Comparison } from "./data";
import { h } from "./dom";
import { type Actions, GraphView } from "./graph";
import { Legend } from "./legend";
import { available, type Colouring, colouring } from "./metrics";
import { groupOf, type Item, isGroup, type Network } from "./network";
import { visibleOf } from "./visible";

export interface Scene {
  net: Network;
  other: Network | undefined;
  found: Comparison | undefined;
  open: ReadonlySet<string>;
  views: boolean;
  heat: string;
  chosen: string;
  theme: Theme;
}

export class Stage {
  readonly element: HTMLElement;
  readonly first: GraphView;
  readonly second: GraphView;
  private readonly titles = [h("h2"), h("h2")];
  private readonly graphs: HTMLElement;
  private readonly legend = new Legend();

  constructor(first: Actions, second: Actions) {
    this.first = new GraphView(first);
    this.second = new GraphView(second);
    const places = [this.first, this.second].map((view, i) => h("section", { class: "place" }, this.titles[i], view.element));
    this.graphs = h("div", { class: "graphs" }, places);
    this.element = h("div", { class: "stage" }, this.graphs, this.legend.element);
  }

  show(scene: Scene): void {
    const { net, other, theme } = scene;
    const heat = scene.heat === "kind" || available(net).some((m) => m.key === scene.heat) ? scene.heat : "macs";
    this.graphs.classList.toggle("two", other !== undefined);
    this.titles[0].textContent = net.doc.name;
    this.titles[1].textContent = other?.doc.name ?? "";
    const colours = colouring(net, heat, inSight(net, scene.open), theme, other && values(other, heat, scene.open));
    this.draw(this.first, scene, net, colours, net.find(scene.chosen), false);
    this.legend.show(net, colours, theme);
    if (!other) return;
    const theirs = colouring(other, heat, inSight(other, scene.open), theme, values(net, heat, scene.open));
    this.draw(this.second, scene, other, theirs, other.find(counterpart(scene)), true);
  }

  private draw(
    view: GraphView,
    scene: Scene,
    net: Network,
    colours: Colouring,
    chosen: Item | undefined,
    second: boolean,
  ): void {
    const known = marks(scene.found, second);
    view.show({
      net,
      open: scene.open,
      views: scene.views,
      title: `${net.doc.name}: ${colours.metric?.label ?? "kinds of layers"}`,
      look: {
        theme: scene.theme,
        colour: colours.colour,
        value: colours.value,
        mark: (item) => (isGroup(item) ? markWithin(net, item, known) : known.get(net.name(item))),
        selected: chosen === undefined ? undefined : visibleOf(net, chosen, scene.open),
      },
    });
  }
}

/** The chosen layer's name in the second network. */
function counterpart({ found, chosen }: Scene): string {
  return found?.layers.find((c) => c.before === chosen && c.after)?.after ?? chosen;
}

function inSight(net: Network, open: ReadonlySet<string>, group = 0): Item[] {
  return net.children[group].flatMap((item) =>
    isGroup(item) && open.has(net.name(item)) ? inSight(net, open, groupOf(item)) : [item],
  );
}

/** Of what is in sight, so that two graphs have one scale. */
function values(net: Network, heat: string, open: ReadonlySet<string>): number[] {
  const metric = available(net).find((m) => m.key === heat);
  return inSight(net, open).map((item) => metric?.of(net.of(item), net) ?? 0);
}

/** The mark of a module: the first that anything in it has. */
function markWithin(net: Network, item: Item, known: Map<string, string>): string | undefined {
  if (!known.size) return undefined;
  for (const i of net.layersUnder(groupOf(item))) {
    const mark = known.get(net.regime.layers[i].name);
    if (mark) return mark;
  }
  return undefined;
}
