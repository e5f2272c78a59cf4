// What the colours mean, with numbers.

import { heat, KINDS, type Theme } from "./colour";
import { h, Surface } from "./dom";
import type { Colouring } from "./metrics";
import type { Network } from "./network";

export class Legend {
  readonly element = h("div", { class: "legend" });
  private theme: Theme | undefined;
  private readonly bar = new Surface({ "aria-hidden": "true", class: "scale" }, (context) => {
    const { width, height } = this.bar;
    for (let x = 0; x < width; x++) {
      context.fillStyle = heat(x / width, this.theme!);
      context.fillRect(x, 0, 1.5, height);
    }
  });

  show(net: Network, colouring: Colouring, theme: Theme): void {
    this.theme = theme;
    const { metric, scale } = colouring;
    if (!metric || !scale) {
      const kinds = [...new Set(net.regime.layers.map((l) => l.kind))].filter((k) => k !== "view");
      this.element.replaceChildren(
        ...kinds.map((kind) => {
          const dot = h("span", { class: "dot", "aria-hidden": "true" });
          dot.style.background = KINDS[kind] ?? KINDS.other;
          return h("span", {}, dot, kind);
        }),
      );
      return;
    }
    const marks = [0, 0.5, 1].map((at) => (scale.high ? metric.text(scale.value(at)) : ""));
    this.element.replaceChildren(
      h("span", { class: "what" }, metric.label, scale.log ? " (logarithmic)" : ""),
      h("div", { class: "scale-box" }, this.bar.canvas, h("div", { class: "marks" }, ...marks.map((m) => h("span", {}, m)))),
    );
    this.bar.measure();
    this.bar.request();
  }
}
