// Arrays from the server (lamina/serve/explorer/live.py), and as pictures.

import { heat, type Theme } from "./colour";
import { h } from "./dom";

export interface Packed {
  shape: number[];
  low: number;
  high: number;
  data: string;
}

export class Values {
  readonly bytes: Uint8Array;

  constructor(readonly packed: Packed) {
    this.bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  }

  get shape(): number[] {
    return this.packed.shape;
  }

  /** 0 ... 1 at an index into the flat array. */
  share(i: number): number {
    return this.bytes[i] / 255;
  }

  at(i: number): number {
    return this.packed.low + this.share(i) * (this.packed.high - this.packed.low);
  }
}

type Colour = (share: number) => [number, number, number];

export const grey: Colour = (share) => {
  const n = Math.round(255 * share);
  return [n, n, n];
};

export function byTheme(theme: Theme): Colour {
  const steps = Array.from({ length: 256 }, (_, i) => {
    const hex = heat(i / 255, theme);
    return [1, 3, 5].map((k) => Number.parseInt(hex.slice(k, k + 2), 16)) as [number, number, number];
  });
  return (share) => steps[Math.round(255 * share)];
}

/** One map (height, width) that begins at `start`, as a small canvas with one pixel for each number. */
export function picture(values: Values, start: number, height: number, width: number, colour: Colour, label: string) {
  const canvas = h("canvas", { role: "img", "aria-label": label, title: label, class: "pixels" });
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colour(values.share(start + i)), 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The image (C, H, W) as a network sees it. */
export function seen(packed: Packed): HTMLCanvasElement {
  const values = new Values(packed);
  const [channels, height, width] = values.shape;
  const canvas = h("canvas", { role: "img", "aria-label": "The image as the network sees it", class: "pixels seen" });
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const pixel = [0, 1, 2].map((c) => values.bytes[(c < channels ? c : 0) * height * width + i]);
    image.data.set([...pixel, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** All maps of (C, H, W), or (heads, grid, grid), side by side; each number is on one scale. */
export function maps(packed: Packed, colour: Colour, name: string): HTMLElement {
  const values = new Values(packed);
  const [count, height, width] = values.shape.length === 3 ? values.shape : [1, 1, values.shape[0]];
  const list = Array.from({ length: count }, (_, i) =>
    picture(values, i * height * width, height, width, colour, `${name}, map ${i + 1}`),
  );
  return h("div", { class: `maps side${height > 32 ? "64" : height > 12 ? "32" : height > 1 ? "12" : "1"}` }, ...list);
}
