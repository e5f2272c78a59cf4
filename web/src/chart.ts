// What every chart needs: axes with round ticks, and a canvas that can be saved.

import type { Theme } from "./colour";
import { h, Surface } from "./dom";
import { type Drawing, saving } from "./export";
import { CanvasPainter, type Painter } from "./painter";

/** What an axis shows. */
export interface Scale {
  low: number;
  high: number;
  log: boolean;
  title: string;
  text(value: number): string;
}

/** A scale in its place. */
export interface Axis extends Scale {
  from: number; // pixels
  to: number;
}

export function at(axis: Axis, value: number): number {
  const share = axis.log
    ? Math.log(value / axis.low) / Math.log(axis.high / axis.low)
    : (value - axis.low) / (axis.high - axis.low || 1);
  return axis.from + share * (axis.to - axis.from);
}

export function valueAt(axis: Axis, pixel: number): number {
  const share = (pixel - axis.from) / (axis.to - axis.from);
  return axis.log ? axis.low * (axis.high / axis.low) ** share : axis.low + share * (axis.high - axis.low);
}

export function ticks(axis: Axis, most: number): number[] {
  const found: number[] = [];
  if (axis.log) {
    const [a, b] = [Math.ceil(Math.log10(axis.low) - 1e-9), Math.floor(Math.log10(axis.high) + 1e-9)];
    const step = Math.max(1, Math.ceil((b - a + 1) / most));
    for (let e = a; e <= b; e += step) found.push(10 ** e);
    return found;
  }
  const rough = (axis.high - axis.low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? power;
  for (let v = Math.ceil(axis.low / step) * step; v <= axis.high + step * 1e-9; v += step) found.push(v);
  return found;
}

/** Both axes with their lines, ticks and titles. */
function drawAxes(painter: Painter, x: Axis, y: Axis, theme: Theme): void {
  for (const value of ticks(y, Math.max(2, Math.abs(y.to - y.from) / 46))) {
    const place = at(y, value);
    painter.path(
      [
        { x: x.from, y: place },
        { x: x.to, y: place },
      ],
      { stroke: theme.line, width: 1 },
    );
    painter.text(y.text(value), x.from - 6, place + 3.5, { size: 10.5, fill: theme.soft, anchor: "end" });
  }
  for (const value of ticks(x, Math.max(2, Math.abs(x.to - x.from) / 84))) {
    const place = at(x, value);
    painter.path(
      [
        { x: place, y: y.from },
        { x: place, y: y.from + 4 },
      ],
      { stroke: theme.soft, width: 1 },
    );
    painter.text(x.text(value), place, y.from + 16, { size: 10.5, fill: theme.soft, anchor: "middle" });
  }
  painter.path(
    [
      { x: x.from, y: y.from },
      { x: x.to, y: y.from },
    ],
    { stroke: theme.soft, width: 1 },
  );
  painter.text(x.title, (x.from + x.to) / 2, y.from + 33, { size: 11, fill: theme.ink, anchor: "middle" });
  painter.text(y.title, x.from - 4, y.to - 10, { size: 11, fill: theme.ink });
}

/** A chart on the page. What inherits says what is drawn in how much room, and the rows behind it. */
export abstract class Chart {
  readonly element: HTMLElement;
  protected readonly surface: Surface;
  protected theme!: Theme; // of the first `show` on

  constructor(
    private readonly name: string,
    label: string,
    attributes: Record<string, string | number> = {},
  ) {
    this.surface = new Surface(
      { class: `chart ${name}`, role: "img", "aria-label": label, ...attributes },
      (context) => this.theme && this.ready && this.draw(new CanvasPainter(context), this.surface.width, this.surface.height),
    );
    this.element = h(
      "figure",
      {},
      saving(
        () => this.file(),
        () => this.drawing(),
        () => this.theme,
      ),
      this.surface.canvas,
    );
  }

  protected abstract get ready(): boolean;
  protected abstract draw(painter: Painter, width: number, height: number): void;
  protected abstract title(): string;
  protected abstract rows(): (string | number)[][];

  protected file(): string {
    return this.name;
  }

  repaint(): void {
    this.surface.measure();
    this.surface.request();
  }

  private drawing(): Drawing {
    const [width, height] = [900, 520];
    return {
      title: this.title(),
      width,
      height: height + 30,
      draw: (painter) => {
        painter.text(this.title(), 14, 22, { size: 14, fill: this.theme.ink, bold: true });
        painter.push(0, 30, 1);
        this.draw(painter, width, height);
        painter.pop();
      },
      rows: () => this.rows(),
    };
  }
}

/** A chart with two axes. What inherits says what they show, and draws between them. */
export abstract class Plot extends Chart {
  protected abstract readonly room: { left: number; right: number; top: number; bottom: number }; // around them, in pixels
  protected abstract scales(): { x: Scale; y: Scale };
  protected abstract plot(painter: Painter, x: Axis, y: Axis): void;

  protected axes(width = this.surface.width, height = this.surface.height): { x: Axis; y: Axis } {
    const { x, y } = this.scales();
    const { left, right, top, bottom } = this.room;
    return { x: { ...x, from: left, to: width - right }, y: { ...y, from: height - bottom, to: top } };
  }

  protected draw(painter: Painter, width: number, height: number): void {
    const { x, y } = this.axes(width, height);
    drawAxes(painter, x, y, this.theme);
    this.plot(painter, x, y);
  }
}
