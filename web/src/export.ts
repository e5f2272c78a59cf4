// Figures and tables as files: SVG, PNG and CSV.

import type { Theme } from "./colour";
import { button, h } from "./dom";
import { CanvasPainter, type Painter, SvgPainter } from "./painter";

/** What can be drawn at any size, and the rows behind it. */
export interface Drawing {
  title: string;
  width: number;
  height: number;
  draw(painter: Painter): void;
  rows(): (string | number)[][];
}

export function save(name: string, content: Blob): void {
  const address = URL.createObjectURL(content);
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export function svgOf(drawing: Drawing, theme: Theme): string {
  const painter = new SvgPainter(drawing.width, drawing.height, theme.paper, drawing.title);
  drawing.draw(painter);
  return painter.toString();
}

export function csvOf(rows: (string | number)[][]): string {
  const cell = (value: string | number): string =>
    typeof value === "string" && /[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : String(value);
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

const LARGEST = 16_000; // pixels along a side, which every browser's canvas has

function savePng(name: string, drawing: Drawing, theme: Theme): void {
  const scale = Math.min(2, LARGEST / Math.max(drawing.width, drawing.height));
  const canvas = h("canvas");
  canvas.width = Math.ceil(drawing.width * scale);
  canvas.height = Math.ceil(drawing.height * scale);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.fillStyle = theme.paper;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.scale(scale, scale);
  drawing.draw(new CanvasPainter(context));
  canvas.toBlob((blob) => blob && save(`${name}.png`, blob), "image/png");
}

/** Three buttons that save a figure. */
export function saving(name: () => string, drawing: () => Drawing, theme: () => Theme): HTMLElement {
  return h(
    "div",
    { class: "saving", role: "group", "aria-label": "Save" },
    button("SVG", "Save as SVG", () => save(`${name()}.svg`, new Blob([svgOf(drawing(), theme())], { type: "image/svg+xml" }))),
    button("PNG", "Save as PNG", () => savePng(name(), drawing(), theme())),
    button("CSV", "Save as CSV", () => save(`${name()}.csv`, new Blob([csvOf(drawing().rows())], { type: "text/csv" }))),
  );
}
