// Live runs, on a page that has its server behind it.

import { h } from "./dom";
import type { Network } from "./network";

export class LivePanel {
  readonly element = h("div", { class: "panel-live" });

  constructor(private readonly net: () => Network) {}

  show(_net: Network, _layer: number | undefined): void {
    this.element.replaceChildren(this.net().doc.name);
  }
}
