// Live runs, on a page that has its server behind it: a digit, an image, a sentence.

import { byTheme, grey, maps, type Packed, seen, Values } from "./arrays";
import type { Theme } from "./colour";
import { button, h, select } from "./dom";
import { DrawPad } from "./drawpad";
import type { Network } from "./network";
import { ask, Refused } from "./source";
import { type Translation, translation } from "./translation";
import * as units from "./units";

interface Digit {
  input: Packed;
  maps: { name: string; maps: Packed }[];
  codes: Packed;
  distances: number[];
  answer: number;
}

interface Prediction {
  label: string;
  probability: number;
}

interface ImageRun {
  predictions: Prediction[];
  weights: string;
  seen: Packed;
  layer?: string;
  maps?: Packed;
  channels?: number;
  grid?: number;
  blocks?: Packed[];
}

const KINDS: Record<string, string> = {
  digit: "a digit, by LeNet-5",
  image: "an image",
  sentence: "a sentence, by the Transformer",
};

export class LivePanel {
  readonly element = h("div", { class: "panel-live" });
  private kind = "digit";
  private net: Network | undefined;
  private layer = "";
  private theme!: Theme;
  private file: Blob | undefined;
  private readonly head = h("div", { class: "bar" });
  private readonly body = h("div");
  private readonly answer = h("div", { class: "answer", "aria-live": "polite" });
  private readonly pad = new DrawPad((ink) => void this.digit(ink));
  private ticket = 0;

  constructor() {
    this.element.append(this.head, this.body, this.answer);
  }

  show(net: Network, layer: number | undefined, theme: Theme): void {
    const name = layer === undefined ? "" : net.regime.layers[layer].name;
    const moved = net.doc.name !== this.net?.doc.name || name !== this.layer;
    const fresh = this.net === undefined;
    this.net = net;
    this.layer = name;
    this.theme = theme;
    if (fresh) this.choose(net.doc.name.startsWith("lenet") ? "digit" : net.doc.live?.includes("image") ? "image" : "sentence");
    else if (moved && this.kind === "image") this.choose("image");
  }

  private choose(kind: string): void {
    const again = kind === this.kind && kind === "image";
    this.kind = kind;
    this.ticket++;
    this.head.replaceChildren(select("Run", Object.entries(KINDS), kind, (v) => this.choose(v)));
    this.answer.replaceChildren();
    if (kind === "digit") this.body.replaceChildren(this.pad.element);
    else if (kind === "image") this.body.replaceChildren(this.drop());
    else this.body.replaceChildren(this.words());
    if (again && this.file) void this.image(this.file);
  }

  /** Ask, and show what comes if nothing else was asked meanwhile. */
  private async run<T>(work: () => Promise<T>, draw: (answer: T) => (Node | string)[]): Promise<void> {
    const ticket = ++this.ticket;
    this.answer.setAttribute("aria-busy", "true");
    let parts: (Node | string)[];
    try {
      parts = draw(await work());
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      parts = [h("p", { class: "wrong", role: "alert" }, error.message)];
    }
    if (ticket !== this.ticket) return;
    this.answer.removeAttribute("aria-busy");
    this.answer.replaceChildren(...parts);
  }

  // ---- a digit -------------------------------------------------------------------------------------------------------

  private async digit(ink: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.run(
      () => ask<Digit>("digit", {}, new Blob([ink])),
      (found) => [
        h(
          "p",
          { class: "result" },
          "It reads ",
          h("strong", {}, String(found.answer)),
          `, at a distance of ${units.significant(found.distances[found.answer])}.`,
        ),
        h("h3", {}, "Distances to the ten codes (RBF, equation 7)"),
        distances(found),
        ...found.maps.map(({ name, maps: packed }) =>
          h("section", {}, h("h3", {}, `${name} ${packed.shape.join("×")}`), maps(packed, byTheme(this.theme), name)),
        ),
      ],
    );
  }

  // ---- an image ------------------------------------------------------------------------------------------------------

  private drop(): HTMLElement {
    const net = this.net!;
    if (!net.doc.live?.includes("image")) return h("p", { class: "sub" }, `${net.doc.name} does not take images.`);
    const input = h("input", { type: "file", accept: "image/*", "aria-label": "An image" });
    input.addEventListener("change", () => input.files?.[0] && void this.image(input.files[0]));
    const place = h("div", { class: "drop" }, h("p", {}, `Drop an image here, for ${net.doc.name}, or choose one: `), input);
    place.addEventListener("dragover", (event) => {
      event.preventDefault();
      place.classList.add("over");
    });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      const file = event.dataTransfer?.files[0];
      if (file) void this.image(file);
    });
    return place;
  }

  private async image(file: Blob): Promise<void> {
    this.file = file;
    const { name, live } = this.net!.doc;
    const query = { model: name, layer: this.layer };
    await this.run(
      async () => {
        const found = await ask<ImageRun>("image", query, file);
        const looks = live?.includes("attention") ? await ask<ImageRun>("attention", { model: name }, file) : undefined;
        return { ...found, ...(looks && { grid: looks.grid, blocks: looks.blocks }) };
      },
      (found) => [
        h("div", { class: "seen-row" }, seen(found.seen), predictions(found.predictions)),
        h("p", { class: "sub" }, `Weights: ${found.weights}`),
        ...this.layerMaps(found),
        ...(found.blocks ? this.attention(found.blocks) : []),
      ],
    );
  }

  private layerMaps(found: ImageRun): (Node | string)[] {
    if (!found.maps) return [h("p", { class: "sub" }, "Choose a layer in the graph to see its maps.")];
    const more = found.channels! > found.maps.shape[0] ? `, the first ${found.maps.shape[0]} of ${found.channels}` : "";
    return [h("h3", {}, `Maps of ${found.layer}${more}`), maps(found.maps, byTheme(this.theme), found.layer!)];
  }

  private attention(blocks: Packed[]): (Node | string)[] {
    const rows = blocks.map((block, i) =>
      h("section", {}, h("h3", {}, `Block ${i}`), maps(block, byTheme(this.theme), `block ${i}`)),
    );
    return [h("h3", {}, "Where the class token looks: each head of each block, over the patches"), ...rows];
  }

  // ---- a sentence ----------------------------------------------------------------------------------------------------

  private words(): HTMLElement {
    const input = h("input", {
      type: "text",
      value: "Ich habe heute keine Zeit.",
      "aria-label": "A German sentence",
      lang: "de",
      maxlength: 200,
    });
    const form = h(
      "form",
      { class: "sentence" },
      input,
      button("translate", "translate", () => void this.sentence(input.value)),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.sentence(input.value);
    });
    return form;
  }

  private async sentence(text: string): Promise<void> {
    await this.run(
      () => ask<Translation>("sentence", { beams: "5" }, text),
      (found) => [translation(found, () => this.theme)],
    );
  }
}

/** The least distance is the answer; beside each its code, 7 by 12 (Figure 3). */
function distances({ distances: all, codes, answer }: Digit): HTMLElement {
  const values = new Values(codes);
  const most = Math.max(...all);
  return h(
    "ol",
    { class: "distances" },
    ...all.map((distance, i) => {
      const bar = h("span", { class: "share" });
      bar.style.width = `${(100 * distance) / most}%`;
      const code = h("canvas", { class: "pixels code", "aria-hidden": "true" });
      code.width = 7;
      code.height = 12;
      const context = code.getContext("2d");
      if (context) {
        const image = context.createImageData(7, 12);
        for (let k = 0; k < 84; k++) image.data.set([...grey(1 - values.share(84 * i + k)), 255], 4 * k);
        context.putImageData(image, 0, 0);
      }
      return h(
        "li",
        { class: i === answer ? "least" : undefined },
        code,
        h("span", {}, String(i)),
        h("span", { class: "track" }, bar),
        h("span", { class: "number" }, units.significant(distance)),
      );
    }),
  );
}

function predictions(found: Prediction[]): HTMLElement {
  return h(
    "ol",
    { class: "predictions" },
    ...found.map(({ label, probability }) => {
      const bar = h("span", { class: "share" });
      bar.style.width = `${probability}%`;
      return h("li", {}, h("span", {}, label), h("span", { class: "number" }, `${probability.toFixed(1)} %`), bar);
    }),
  );
}
