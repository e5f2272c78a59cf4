// The bar above everything.

import { batchKnob, type Change, chooser, heatChoice, type Search, settings, typeKnob } from "./controls";
import type { NetworkDocument, Page } from "./data";
import { button, h } from "./dom";
import type { Network } from "./network";
import type { State } from "./state";

export interface Choices {
  change: Change;
  open(name: string): void;
  set(name: string, value: string): void;
}

const THEMES: Record<State["theme"], [string, State["theme"]]> = {
  auto: ["◐", "light"],
  light: ["☀", "dark"],
  dark: ["☾", "auto"],
};

export class Header {
  readonly element = h("header");
  private readonly sizes = h("details", { class: "sizes" }, h("summary", {}, "sizes"));
  private built = "";
  private sized = "";

  constructor(
    private readonly page: Page,
    private readonly search: Search,
    private readonly choices: Choices,
  ) {}

  /** Build everything anew the next time. */
  forget(): void {
    this.built = "";
    this.sized = "";
  }

  /** Built anew only where another network, type or colour changes what can be chosen, so that a slider is not lost in a drag. */
  show(doc: NetworkDocument, net: Network, state: State): void {
    const known = [doc.name, state.beside, net.dtype, state.theme, state.heat, Boolean(doc.fit), Boolean(doc.measured)].join(
      "|",
    );
    if (known === this.built) return;
    this.built = known;
    const { page, choices } = this;
    const held = document.activeElement?.getAttribute("aria-label");
    const beside = (name: string): void => choices.change({ beside: name, tab: name ? "compare" : state.tab });
    const [sign, next] = THEMES[state.theme];
    this.element.replaceChildren(
      h("h1", {}, "Lamina"),
      chooser(page, "network", doc.name, "", choices.open),
      page.served || page.networks.length > 1 ? chooser(page, "beside", state.beside, "none", beside) : "",
      batchKnob(doc, net.batch, net.dtype, choices.change),
      typeKnob(doc, net.batch, net.dtype, choices.change),
      heatChoice(net, state.heat, choices.change),
      page.served ? this.sizes : "",
      page.lecture ? h("a", { href: "../lecture" }, "lecture") : "",
      this.search.element,
      button(sign, `Theme: ${state.theme}`, () => choices.change({ theme: next }), "quiet"),
    );
    if (page.served && this.sized !== doc.name) {
      this.sized = doc.name;
      this.sizes.replaceChildren(this.sizes.firstElementChild!, settings(doc, state.changes, choices.set));
    }
    if (held) this.element.querySelector<HTMLElement>(`[aria-label="${CSS.escape(held)}"]`)?.focus();
  }
}
