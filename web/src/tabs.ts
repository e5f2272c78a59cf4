// Tabs, as the ARIA practices have them: one stop of the keyboard, arrows between them.

import { h } from "./dom";

export class Tabs {
  readonly element: HTMLElement;
  private readonly list = h("div", { role: "tablist", "aria-label": "About it" });
  private readonly panels = new Map<string, HTMLElement>();
  private readonly buttons = new Map<string, HTMLButtonElement>();

  constructor(tabs: [string, string, HTMLElement][], choose: (key: string) => void) {
    for (const [key, title, content] of tabs) {
      const tab = h(
        "button",
        { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": `panel-${key}`, onclick: () => choose(key) },
        title,
      );
      const panel = h("div", { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}`, tabindex: 0 }, content);
      this.buttons.set(key, tab);
      this.panels.set(key, panel);
      this.list.append(tab);
    }
    this.list.addEventListener("keydown", (event) => {
      const keys = [...this.buttons.keys()];
      const at = keys.findIndex((key) => this.buttons.get(key) === document.activeElement);
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? keys.length - 1 : 0;
      if (!step || at < 0) return;
      const next = keys[(at + step) % keys.length];
      choose(next);
      this.buttons.get(next)!.focus();
    });
    this.element = h("div", { class: "tabs" }, this.list, ...this.panels.values());
  }

  show(chosen: string): void {
    for (const [key, panel] of this.panels) {
      panel.hidden = key !== chosen;
      this.buttons.get(key)!.setAttribute("aria-selected", String(key === chosen));
      this.buttons.get(key)!.tabIndex = key === chosen ? 0 : -1;
    }
  }
}
