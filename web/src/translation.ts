// A translation: its attention over the source, and the beam after each token.

import { byTheme, type Packed, picture, Values } from "./arrays";
import type { Theme } from "./colour";
import { h, select } from "./dom";
import * as units from "./units";

export interface Translation {
  source: string;
  target: string;
  score: number;
  source_tokens: string[];
  target_tokens: string[];
  attention: Packed[];
  steps: { text: string; score: number }[][];
}

export function translation(found: Translation, theme: () => Theme): HTMLElement {
  const place = h("div");
  const last = found.attention.length - 1;
  const show = (layer: string): void => place.replaceChildren(attention(found, Number(layer), theme()));
  show(String(last));
  const layers = found.attention.map((_, i) => [String(i), `decoder layer ${i}`] as [string, string]);
  return h(
    "div",
    { class: "translation" },
    h("p", { class: "result", lang: "en" }, h("strong", {}, found.target), ` (${units.significant(found.score)})`),
    h("h3", {}, "Where each token of the translation looks, the mean of the heads"),
    select("Layer", layers, String(last), show),
    place,
    h("h3", {}, "The beam, token by token"),
    beam(found),
  );
}

function attention(
  { attention: layers, source_tokens: sources, target_tokens: targets }: Translation,
  layer: number,
  theme: Theme,
) {
  const values = new Values(layers[layer]);
  const [heads, rows, columns] = values.shape;
  const colour = byTheme(theme);
  const mean = (t: number, s: number): number => {
    let sum = 0;
    for (let k = 0; k < heads; k++) sum += values.at((k * rows + t) * columns + s);
    return sum / heads;
  };
  const single = (share: number): HTMLElement => {
    const packed = { shape: [1], low: 0, high: 1, data: btoa(String.fromCharCode(Math.round(255 * share))) };
    return picture(new Values(packed), 0, 1, 1, colour, units.percent(share));
  };
  return h(
    "table",
    { class: "attention" },
    h("thead", {}, h("tr", {}, h("td"), ...sources.map((token) => h("th", { scope: "col", lang: "de" }, token)))),
    h(
      "tbody",
      {},
      ...targets.map((token, t) =>
        h("tr", {}, h("th", { scope: "row", lang: "en" }, token), ...sources.map((_, s) => h("td", {}, single(mean(t, s))))),
      ),
    ),
  );
}

function beam({ steps }: Translation): HTMLElement {
  const text = h("ol", { class: "beam" });
  const output = h("output");
  const show = (step: number): void => {
    output.textContent = `after ${step + 1} token${step ? "s" : ""}`;
    text.replaceChildren(
      ...steps[step].map(({ text: words, score }) =>
        h("li", { lang: "en" }, words || "…", h("span", { class: "number" }, units.significant(score))),
      ),
    );
  };
  const range = h("input", { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1, "aria-label": "Token" });
  range.addEventListener("input", () => show(Number(range.value)));
  show(steps.length - 1);
  return h("div", {}, h("label", { class: "step" }, range, output), text);
}
