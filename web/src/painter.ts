// One way to draw, two surfaces: a canvas for the screen and for PNG, SVG text for a file. What is drawn is the same.

import type { Point } from "./layout";

export interface Paint {
  fill?: string;
  stroke?: string;
  width?: number;
  dash?: number[];
  alpha?: number;
}

export interface Type {
  size: number;
  fill: string;
  anchor?: "start" | "middle" | "end";
  bold?: boolean;
  mono?: boolean;
  turn?: number; // degrees
}

export interface Painter {
  rect(x: number, y: number, width: number, height: number, paint: Paint, radius?: number): void;
  circle(x: number, y: number, radius: number, paint: Paint): void;
  path(points: Point[], paint: Paint, smooth?: boolean, closed?: boolean): void;
  text(text: string, x: number, y: number, type: Type): void;
  /** What follows is moved and scaled, until `pop`. */
  push(x: number, y: number, scale: number): void;
  pop(): void;
}

const SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif';
const MONO = 'ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace';

export class CanvasPainter implements Painter {
  constructor(readonly context: CanvasRenderingContext2D) {}

  private paint(paint: Paint): void {
    const c = this.context;
    c.globalAlpha = paint.alpha ?? 1;
    if (paint.fill) {
      c.fillStyle = paint.fill;
      c.fill();
    }
    if (paint.stroke) {
      c.strokeStyle = paint.stroke;
      c.lineWidth = paint.width ?? 1;
      c.setLineDash(paint.dash ?? []);
      c.stroke();
    }
    c.globalAlpha = 1;
  }

  rect(x: number, y: number, width: number, height: number, paint: Paint, radius = 0): void {
    this.context.beginPath();
    if (radius) this.context.roundRect(x, y, width, height, radius);
    else this.context.rect(x, y, width, height);
    this.paint(paint);
  }

  circle(x: number, y: number, radius: number, paint: Paint): void {
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.paint(paint);
  }

  path(points: Point[], paint: Paint, smooth = false, closed = false): void {
    if (!points.length) return;
    const c = this.context;
    c.beginPath();
    c.moveTo(points[0].x, points[0].y);
    if (smooth && points.length > 2) {
      for (let i = 1; i < points.length - 1; i++) {
        const last = i === points.length - 2;
        const end = last ? points[i + 1] : middle(points[i], points[i + 1]);
        c.quadraticCurveTo(points[i].x, points[i].y, end.x, end.y);
      }
    } else {
      for (const p of points.slice(1)) c.lineTo(p.x, p.y);
    }
    if (closed) c.closePath();
    this.paint(paint);
  }

  text(text: string, x: number, y: number, type: Type): void {
    const c = this.context;
    c.font = `${type.bold ? "600 " : ""}${type.size}px ${type.mono ? MONO : SANS}`;
    c.fillStyle = type.fill;
    c.textAlign = ({ start: "left", middle: "center", end: "right" } as const)[type.anchor ?? "start"];
    c.textBaseline = "alphabetic";
    if (!type.turn) {
      c.fillText(text, x, y);
      return;
    }
    c.save();
    c.translate(x, y);
    c.rotate((type.turn * Math.PI) / 180);
    c.fillText(text, 0, 0);
    c.restore();
  }

  push(x: number, y: number, scale: number): void {
    this.context.save();
    this.context.translate(x, y);
    this.context.scale(scale, scale);
  }

  pop(): void {
    this.context.restore();
  }
}

const middle = (a: Point, b: Point): Point => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const short = (n: number): string => String(Math.round(n * 100) / 100);
const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);

export class SvgPainter implements Painter {
  private readonly parts: string[] = [];

  constructor(
    private readonly width: number,
    private readonly height: number,
    private readonly background: string,
    private readonly title: string,
  ) {}

  private style(paint: Paint): string {
    const parts = [`fill="${paint.fill ?? "none"}"`];
    if (paint.stroke) parts.push(`stroke="${paint.stroke}" stroke-width="${paint.width ?? 1}"`);
    if (paint.dash?.length) parts.push(`stroke-dasharray="${paint.dash.join(" ")}"`);
    if (paint.alpha !== undefined) parts.push(`opacity="${paint.alpha}"`);
    return parts.join(" ");
  }

  rect(x: number, y: number, width: number, height: number, paint: Paint, radius = 0): void {
    const place = `x="${short(x)}" y="${short(y)}" width="${short(Math.max(0, width))}" height="${short(Math.max(0, height))}"`;
    this.parts.push(`<rect ${place}${radius ? ` rx="${radius}"` : ""} ${this.style(paint)}/>`);
  }

  circle(x: number, y: number, radius: number, paint: Paint): void {
    this.parts.push(`<circle cx="${short(x)}" cy="${short(y)}" r="${short(radius)}" ${this.style(paint)}/>`);
  }

  path(points: Point[], paint: Paint, smooth = false, closed = false): void {
    if (!points.length) return;
    let d = `M${short(points[0].x)} ${short(points[0].y)}`;
    if (smooth && points.length > 2) {
      for (let i = 1; i < points.length - 1; i++) {
        const end = i === points.length - 2 ? points[i + 1] : middle(points[i], points[i + 1]);
        d += `Q${short(points[i].x)} ${short(points[i].y)} ${short(end.x)} ${short(end.y)}`;
      }
    } else {
      for (const p of points.slice(1)) d += `L${short(p.x)} ${short(p.y)}`;
    }
    this.parts.push(`<path d="${d}${closed ? "Z" : ""}" ${this.style(paint)}/>`);
  }

  text(text: string, x: number, y: number, type: Type): void {
    const turn = type.turn ? ` transform="rotate(${type.turn} ${short(x)} ${short(y)})"` : "";
    const anchor = type.anchor && type.anchor !== "start" ? ` text-anchor="${type.anchor}"` : "";
    const look = `${type.bold ? ' font-weight="600"' : ""}${type.mono ? ' font-family="monospace"' : ""}`;
    const place = `x="${short(x)}" y="${short(y)}" font-size="${short(type.size)}" fill="${type.fill}"`;
    this.parts.push(`<text ${place}${anchor}${look}${turn}>${escaped(text)}</text>`);
  }

  push(x: number, y: number, scale: number): void {
    this.parts.push(`<g transform="translate(${short(x)} ${short(y)}) scale(${scale})">`);
  }

  pop(): void {
    this.parts.push("</g>");
  }

  toString(): string {
    const { width, height } = this;
    const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${short(width)} ${short(height)}" width="${short(width)}"`;
    const ground = `<rect width="${short(width)}" height="${short(height)}" fill="${this.background}"/>`;
    return `${head} height="${short(height)}" font-family="system-ui, sans-serif"><title>${escaped(this.title)}</title>${ground}${this.parts.join("")}</svg>\n`;
  }
}

/** As much of the text as fits, by the width of a usual letter. */
export function clipped(text: string, width: number, size: number): string {
  const most = Math.max(1, Math.floor(width / (0.56 * size)));
  return text.length <= most ? text : `${text.slice(0, Math.max(1, most - 1))}…`;
}
